-- q4, average price for a category: over the highest bid of each auction while it was open.
-- An average over maxima that later bids replace. Averages of integers are truncated, not rounded.
CREATE TABLE nexmark_q4 (
  id BIGINT,
  final BIGINT,
  PRIMARY KEY (id) NOT ENFORCED
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-q4', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');

INSERT INTO nexmark_q4
SELECT category, CAST(AVG(final) AS BIGINT)
FROM (
  SELECT a.category, MAX(b.price) AS final
  FROM auction AS a, bid AS b
  WHERE a.id = b.auction AND b.dateTime BETWEEN a.dateTime AND a.expires
  GROUP BY a.id, a.category
) AS closing
GROUP BY category;
