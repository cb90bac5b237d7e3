-- q6, average selling price by seller: over their last 10 auctions with a bid, in the order of the winning bids.
-- A frame of rows over a Top-1 whose winners change: every change corrects up to 10 averages.
-- The auction is the key of the row: later bids correct it.
CREATE TABLE nexmark_q6 (
  id BIGINT,
  seller BIGINT,
  avg_price BIGINT,
  PRIMARY KEY (id) NOT ENFORCED
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-q6', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');

INSERT INTO nexmark_q6
SELECT id, seller, CAST(AVG(price) OVER (
    PARTITION BY seller ORDER BY dateTime, id ROWS BETWEEN 9 PRECEDING AND CURRENT ROW
  ) AS BIGINT)
FROM (
  SELECT id, seller, price, dateTime
  FROM (
    SELECT a.id, a.seller, b.price, b.dateTime,
      ROW_NUMBER() OVER (PARTITION BY a.id, a.seller ORDER BY b.price DESC, b.dateTime, b.extra) AS rownum
    FROM auction AS a, bid AS b
    WHERE a.id = b.auction AND b.dateTime BETWEEN a.dateTime AND a.expires
  ) AS bids
  WHERE rownum <= 1
) AS winning;
