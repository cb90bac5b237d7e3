-- q0, pass through: the cost of reading and writing alone.
CREATE TABLE nexmark_q0 (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  dateTime TIMESTAMP(3),
  extra STRING
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-q0', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');

INSERT INTO nexmark_q0
SELECT auction, bidder, price, dateTime, extra FROM bid;
