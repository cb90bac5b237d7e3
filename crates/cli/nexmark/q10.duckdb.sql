CREATE TABLE result ("auction" BIGINT, "bidder" BIGINT, "price" BIGINT, "dateTime" TIMESTAMP, "extra" VARCHAR,
  "dt" VARCHAR, "hm" VARCHAR);

CREATE VIEW answer AS
SELECT auction, bidder, price, "dateTime", extra, strftime("dateTime", '%Y-%m-%d'), strftime("dateTime",
  '%H:%M') FROM bid;
