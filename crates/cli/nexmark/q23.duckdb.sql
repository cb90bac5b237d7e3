CREATE TABLE result ("bidder" BIGINT, "price" BIGINT, "channel" VARCHAR, "url" VARCHAR, "bid_extra" VARCHAR,
  "person_id" BIGINT, "name" VARCHAR, "emailAddress" VARCHAR, "creditCard" VARCHAR, "city" VARCHAR, "state" VARCHAR,
  "person_extra" VARCHAR, "itemName" VARCHAR, "description" VARCHAR, "initialBid" BIGINT, "reserve" BIGINT,
  "auction_dateTime" TIMESTAMP, "expires" TIMESTAMP, "seller" BIGINT, "category" BIGINT, "auction_extra" VARCHAR);

CREATE VIEW answer AS
SELECT bidder, price, channel, url, bid.extra, person.id, name, "emailAddress", "creditCard", city, state, person.extra,
  "itemName", description, "initialBid", reserve, auction."dateTime", expires, seller, category, auction.extra
FROM bid, person, auction WHERE bidder = person.id AND seller = person.id;
