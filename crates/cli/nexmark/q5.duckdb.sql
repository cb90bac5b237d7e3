CREATE TABLE result ("auction" BIGINT, "num" BIGINT);

CREATE VIEW answer AS
WITH counted AS (
  SELECT auction, count(*) AS num, window_end
  FROM (
    SELECT auction, unnest(range(
      time_bucket(INTERVAL 2 SECOND, "dateTime") + INTERVAL 2 SECOND,
      time_bucket(INTERVAL 2 SECOND, "dateTime") + INTERVAL 12 SECOND,
      INTERVAL 2 SECOND)) AS window_end
    FROM bid
  )
  WHERE window_end <= (SELECT reached FROM watermark WHERE stream = 'bid')
  GROUP BY auction, window_end
)
SELECT auction, num FROM counted QUALIFY num = max(num) OVER (PARTITION BY window_end);
