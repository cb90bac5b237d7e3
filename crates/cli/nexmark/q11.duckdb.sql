CREATE TABLE result ("bidder" BIGINT, "bid_count" BIGINT, "starttime" TIMESTAMP, "endtime" TIMESTAMP);

CREATE VIEW answer AS
WITH marked AS (
  SELECT bidder, "dateTime",
    coalesce("dateTime" - lag("dateTime") OVER of_bidder > INTERVAL 10 SECOND, true)::INTEGER AS is_first
  FROM bid WINDOW of_bidder AS (PARTITION BY bidder ORDER BY "dateTime")
), numbered AS (
  SELECT *,
  sum(is_first) OVER (PARTITION BY bidder ORDER BY "dateTime" RANGE UNBOUNDED PRECEDING) AS session FROM marked
)
SELECT bidder, count(*), min("dateTime"), max("dateTime") + INTERVAL 10 SECOND AS endtime
FROM numbered GROUP BY bidder, session
HAVING endtime <= (SELECT reached FROM watermark WHERE stream = 'bid');
