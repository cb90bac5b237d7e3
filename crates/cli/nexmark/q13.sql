-- q13, bounded side input: every bid looks up a file, written by the command.
CREATE TABLE side_input (
  key BIGINT,
  `value` STRING
) WITH ('connector' = 'filesystem', 'path' = 'nexmark-side-input.csv', 'format' = 'csv');

CREATE TABLE nexmark_q13 (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  dateTime TIMESTAMP(3),
  `value` STRING
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-q13', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');

INSERT INTO nexmark_q13
SELECT b.auction, b.bidder, b.price, b.dateTime, s.`value`
FROM (SELECT *, PROCTIME() AS p_time FROM bid) AS b
JOIN side_input FOR SYSTEM_TIME AS OF b.p_time AS s
ON MOD(b.auction, 10000) = s.key;
