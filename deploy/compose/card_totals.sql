-- What was paid per category in each ten seconds, corrected at every commit.
-- One record per window and category in the topic `card_totals`; a newer one replaces an older one.
SET trigger = 'every 1 second';

CREATE TABLE card_payments (
  id       BIGINT,
  card     STRING,
  merchant STRING,
  category STRING,
  country  STRING,
  home     STRING,
  amount   DECIMAL(10, 2),
  ts       TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH (
  'connector' = 'kafka',
  'topic' = 'card_payments',
  'bootstrap.servers' = 'kafka:19092',
  'format' = 'json'
);

CREATE TABLE card_totals (
  window_start TIMESTAMP(3),
  category     STRING,
  payments     BIGINT,
  total        DECIMAL(20, 2),
  largest      DECIMAL(10, 2),
  PRIMARY KEY (window_start, category) NOT ENFORCED
) WITH (
  'connector' = 'kafka',
  'topic' = 'card_totals',
  'bootstrap.servers' = 'kafka:19092',
  'format' = 'json'
);

INSERT INTO card_totals
SELECT window_start, category, COUNT(*), SUM(amount), MAX(amount)
FROM TABLE(TUMBLE(TABLE card_payments, DESCRIPTOR(ts), INTERVAL '10' SECOND))
GROUP BY window_start, window_end, category;
