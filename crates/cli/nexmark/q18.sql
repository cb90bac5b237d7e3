-- q18, find last bid: the last bid of each bidder on each auction.
-- Bids with the same time are ordered by price and `extra`; the published query leaves that open.
CREATE TABLE nexmark_q18 (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  channel STRING,
  url STRING,
  dateTime TIMESTAMP(3),
  extra STRING,
  PRIMARY KEY (bidder, auction) NOT ENFORCED
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-q18', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');

INSERT INTO nexmark_q18
SELECT auction, bidder, price, channel, url, dateTime, extra
FROM (
  SELECT *,
    ROW_NUMBER() OVER (PARTITION BY bidder, auction ORDER BY dateTime DESC, price DESC, extra DESC) AS rank_number
  FROM bid
) AS ranked
WHERE rank_number <= 1;
