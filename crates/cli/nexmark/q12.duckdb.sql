-- Which window a bid is in is a matter of the clock: over all windows, each bidder's bids are what they are.
CREATE TABLE result ("bidder" BIGINT, "bid_count" BIGINT, "starttime" TIMESTAMP, "endtime" TIMESTAMP);

CREATE VIEW answer AS
SELECT bidder, count(*) FROM bid GROUP BY bidder;

CREATE VIEW compared AS
SELECT bidder, sum(bid_count)::BIGINT FROM result GROUP BY bidder;
