-- q11, user sessions: bids of each user without a pause of 10 seconds. Uses Flink's older window syntax.
CREATE TABLE nexmark_q11 (
  bidder BIGINT,
  bid_count BIGINT,
  starttime TIMESTAMP(3),
  endtime TIMESTAMP(3)
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-q11', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');

INSERT INTO nexmark_q11
SELECT b.bidder, COUNT(*) AS bid_count,
  SESSION_START(b.dateTime, INTERVAL '10' SECOND) AS starttime,
  SESSION_END(b.dateTime, INTERVAL '10' SECOND) AS endtime
FROM bid AS b
GROUP BY b.bidder, SESSION(b.dateTime, INTERVAL '10' SECOND);
