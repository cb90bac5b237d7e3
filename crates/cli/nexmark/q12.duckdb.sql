-- The window of a bid depends on the clock, so each bidder's bids are compared over all windows.
CREATE TABLE result ("bidder" BIGINT, "bid_count" BIGINT, "starttime" TIMESTAMP, "endtime" TIMESTAMP);

CREATE VIEW answer AS
SELECT bidder, count(*) FROM bid GROUP BY bidder;

CREATE VIEW compared AS
SELECT bidder, sum(bid_count)::BIGINT FROM result GROUP BY bidder;
