CREATE TABLE result ("auction" BIGINT, "bidder" BIGINT, "price" BIGINT, "channel" VARCHAR, "url" VARCHAR,
  "dateTime" TIMESTAMP, "extra" VARCHAR);

CREATE VIEW answer AS
SELECT auction, bidder, price, channel, url, "dateTime", extra
FROM bid
QUALIFY row_number() OVER (PARTITION BY bidder, auction ORDER BY "dateTime" DESC, price DESC, extra DESC) = 1;
