-- q19, the 10 highest bids of each auction, with their ranks.
-- Bids with the same price are ordered by time and `extra`; the published query leaves that open.
CREATE TABLE nexmark_q19 (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  channel STRING,
  url STRING,
  dateTime TIMESTAMP(3),
  extra STRING,
  rank_number BIGINT,
  PRIMARY KEY (auction, rank_number) NOT ENFORCED
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-q19', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');

INSERT INTO nexmark_q19
SELECT *
FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price DESC, dateTime, extra) AS rank_number
  FROM bid
) AS ranked
WHERE rank_number <= 10;
