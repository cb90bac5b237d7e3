-- The three streams of the Nexmark auction site. Every query's script begins with this.
-- `highwater bench nexmark` replaces the topics and the Kafka address below with those of its run.
SET trigger = 'available_now';
-- Every partition has records up to the end, so none is idle, and all count for the watermark.
SET idle_timeout = 'never';

CREATE TABLE person (
  id BIGINT,
  name STRING,
  emailAddress STRING,
  creditCard STRING,
  city STRING,
  state STRING,
  dateTime TIMESTAMP(3),
  extra STRING,
  WATERMARK FOR dateTime AS dateTime - INTERVAL '4' SECOND
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-person', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');

CREATE TABLE auction (
  id BIGINT,
  itemName STRING,
  description STRING,
  initialBid BIGINT,
  reserve BIGINT,
  dateTime TIMESTAMP(3),
  expires TIMESTAMP(3),
  seller BIGINT,
  category BIGINT,
  extra STRING,
  WATERMARK FOR dateTime AS dateTime - INTERVAL '4' SECOND
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-auction', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');

CREATE TABLE bid (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  channel STRING,
  url STRING,
  dateTime TIMESTAMP(3),
  extra STRING,
  WATERMARK FOR dateTime AS dateTime - INTERVAL '4' SECOND
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-bid', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');
