CREATE TABLE result ("auction" BIGINT, "day" VARCHAR, "total_bids" BIGINT, "rank1_bids" BIGINT, "rank2_bids" BIGINT,
  "rank3_bids" BIGINT, "min_price" BIGINT, "max_price" BIGINT, "avg_price" BIGINT, "sum_price" BIGINT);

CREATE VIEW answer AS
SELECT auction, day,
  count(*), count(*) FILTER (low), count(*) FILTER (middle), count(*) FILTER (high),
  min(price), max(price), sum(price) // count(*), sum(price)
FROM (
  SELECT *, strftime("dateTime", '%Y-%m-%d') AS day, price < 10000 AS low, price >= 1000000 AS high,
    NOT low AND NOT high AS middle
  FROM bid
) GROUP BY auction, day;
