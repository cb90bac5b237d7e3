-- q10, log of bids, with the columns `dt` and `hm` that partition it. Written to Kafka here, not to files.
CREATE TABLE nexmark_q10 (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  dateTime TIMESTAMP(3),
  extra STRING,
  dt STRING,
  hm STRING
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-q10', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');

INSERT INTO nexmark_q10
SELECT auction, bidder, price, dateTime, extra,
  DATE_FORMAT(dateTime, 'yyyy-MM-dd'), DATE_FORMAT(dateTime, 'HH:mm')
FROM bid;
