-- Suspicious payments, each to the topic of its reason: large ones, and those far from home.
CREATE TABLE card_payments (
  id       BIGINT,
  card     STRING,
  merchant STRING,
  country  STRING,
  home     STRING,
  amount   DECIMAL(10, 2),
  ts       TIMESTAMP(3)
) WITH (
  'connector' = 'kafka',
  'topic' = 'card_payments',
  'bootstrap.servers' = 'localhost:9092',
  'format' = 'json'
);

CREATE TABLE alerts (
  _topic   STRING,
  card     STRING,
  merchant STRING,
  country  STRING,
  amount   DECIMAL(10, 2),
  ts       TIMESTAMP(3)
) WITH (
  'connector' = 'kafka',
  'bootstrap.servers' = 'localhost:9092',
  'format' = 'json'
);

INSERT INTO alerts
SELECT
  CASE WHEN amount >= 1000 THEN 'alerts_large' ELSE 'alerts_abroad' END,
  card, merchant, country, amount, ts
FROM card_payments
WHERE amount >= 1000 OR (country <> home AND amount >= 200);
