-- q12, windows of processing time: bids of each user in 10 seconds of the clock.
-- The time is that of the micro-batch and is the same after a recovery. With PRIMARY KEY the sink shows open windows, too.
CREATE VIEW b AS SELECT *, PROCTIME() AS p_time FROM bid;

CREATE TABLE nexmark_q12 (
  bidder BIGINT,
  bid_count BIGINT,
  starttime TIMESTAMP(3),
  endtime TIMESTAMP(3),
  PRIMARY KEY (bidder, starttime, endtime) NOT ENFORCED
) WITH ('connector' = 'kafka', 'topic' = 'nexmark-q12', 'bootstrap.servers' = 'localhost:9092', 'format' = 'json');

INSERT INTO nexmark_q12
SELECT bidder, COUNT(*) AS bid_count, window_start AS starttime, window_end AS endtime
FROM TABLE(TUMBLE(TABLE b, DESCRIPTOR(p_time), INTERVAL '10' SECOND))
GROUP BY bidder, window_start, window_end;
