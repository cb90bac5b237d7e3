CREATE TABLE result ("day" VARCHAR, "total_bids" BIGINT, "rank1_bids" BIGINT, "rank2_bids" BIGINT,
  "rank3_bids" BIGINT, "total_bidders" BIGINT, "rank1_bidders" BIGINT, "rank2_bidders" BIGINT,
  "rank3_bidders" BIGINT, "total_auctions" BIGINT, "rank1_auctions" BIGINT, "rank2_auctions" BIGINT,
  "rank3_auctions" BIGINT);

CREATE VIEW answer AS
SELECT day,
  count(*), count(*) FILTER (low), count(*) FILTER (middle), count(*) FILTER (high),
  count(DISTINCT bidder), count(DISTINCT bidder) FILTER (low), count(DISTINCT bidder) FILTER (middle),
  count(DISTINCT bidder) FILTER (high),
  count(DISTINCT auction), count(DISTINCT auction) FILTER (low), count(DISTINCT auction) FILTER (middle),
  count(DISTINCT auction) FILTER (high)
FROM (
  SELECT *, strftime("dateTime", '%Y-%m-%d') AS day, price < 10000 AS low, price >= 1000000 AS high,
    NOT low AND NOT high AS middle
  FROM bid
) GROUP BY day;
