-- q23, bids of people who have listed an item themselves, with both: a join of three streams.
CREATE TABLE nexmark_q23 (
  bidder BIGINT,
  price BIGINT,
  channel STRING,
  url STRING,
  bid_extra STRING,
  person_id BIGINT,
  name STRING,
  emailAddress STRING,
  creditCard STRING,
  city STRING,
  state STRING,
  person_extra STRING,
  itemName STRING,
  description STRING,
  initialBid BIGINT,
  reserve BIGINT,
  auction_dateTime TIMESTAMP(3),
  expires TIMESTAMP(3),
  seller BIGINT,
  category BIGINT,
  auction_extra STRING
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-q23', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');

INSERT INTO nexmark_q23
SELECT bidder, price, channel, url, b.extra AS bid_extra,
  p.id AS person_id, name, emailAddress, creditCard, city, state, p.extra AS person_extra,
  itemName, description, initialBid, reserve, a.dateTime AS auction_dateTime, expires, seller, category,
  a.extra AS auction_extra
FROM bid AS b
JOIN person AS p ON p.id = b.bidder
JOIN auction AS a ON a.seller = b.bidder;
