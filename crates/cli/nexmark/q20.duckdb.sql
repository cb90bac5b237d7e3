CREATE TABLE result ("auction" BIGINT, "bidder" BIGINT, "price" BIGINT, "channel" VARCHAR, "url" VARCHAR,
  "bid_dateTime" TIMESTAMP, "bid_extra" VARCHAR, "itemName" VARCHAR, "description" VARCHAR, "initialBid" BIGINT,
  "reserve" BIGINT, "auction_dateTime" TIMESTAMP, "expires" TIMESTAMP, "seller" BIGINT, "category" BIGINT,
  "auction_extra" VARCHAR);

CREATE VIEW answer AS
SELECT bid.auction, bidder, price, channel, url, bid."dateTime", bid.extra,
  "itemName", description, "initialBid", reserve, auction."dateTime", expires, seller, category, auction.extra
FROM bid JOIN auction ON bid.auction = auction.id WHERE category = 10;
