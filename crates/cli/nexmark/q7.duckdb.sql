CREATE TABLE result ("auction" BIGINT, "bidder" BIGINT, "price" BIGINT, "dateTime" TIMESTAMP, "extra" VARCHAR);

CREATE VIEW answer AS
WITH highest AS (
  SELECT max(price) AS price, time_bucket(INTERVAL 10 SECOND, "dateTime") AS start
  FROM bid GROUP BY start
)
SELECT auction, bidder, bid.price, "dateTime", extra
FROM bid JOIN highest ON bid.price = highest.price AND "dateTime" BETWEEN start AND start + INTERVAL 10 SECOND
WHERE start + INTERVAL 10 SECOND <= (SELECT reached FROM watermark WHERE stream = 'bid');
