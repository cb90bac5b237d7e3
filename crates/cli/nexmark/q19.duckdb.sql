CREATE TABLE result ("auction" BIGINT, "bidder" BIGINT, "price" BIGINT, "channel" VARCHAR, "url" VARCHAR,
  "dateTime" TIMESTAMP, "extra" VARCHAR, "rank_number" BIGINT);

CREATE VIEW answer AS
SELECT auction, bidder, price, channel, url, "dateTime", extra,
  row_number() OVER (PARTITION BY auction ORDER BY price DESC, "dateTime", extra) AS rank_number
FROM bid
QUALIFY rank_number <= 10;
