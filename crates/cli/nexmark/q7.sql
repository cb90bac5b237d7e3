-- q7, highest bid of every 10 seconds, by a join of the bids with their own maximum.
CREATE TABLE nexmark_q7 (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  dateTime TIMESTAMP(3),
  extra STRING
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-q7', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');

INSERT INTO nexmark_q7
SELECT b.auction, b.bidder, b.price, b.dateTime, b.extra
FROM bid AS b
JOIN (
  SELECT MAX(price) AS maxprice, window_end AS dateTime
  FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(dateTime), INTERVAL '10' SECOND))
  GROUP BY window_start, window_end
) AS highest
ON b.price = highest.maxprice
WHERE b.dateTime BETWEEN highest.dateTime - INTERVAL '10' SECOND AND highest.dateTime;
