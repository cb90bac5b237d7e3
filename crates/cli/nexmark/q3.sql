-- q3, local item suggestion: sellers in Oregon, Idaho and California with their auctions of category 10.
-- A join of two streams without a time condition.
CREATE TABLE nexmark_q3 (
  name STRING,
  city STRING,
  state STRING,
  id BIGINT
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-q3', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');

INSERT INTO nexmark_q3
SELECT p.name, p.city, p.state, a.id
FROM auction AS a
INNER JOIN person AS p ON a.seller = p.id
WHERE a.category = 10 AND (p.state = 'OR' OR p.state = 'ID' OR p.state = 'CA');
