CREATE TABLE result ("id" BIGINT, "itemName" VARCHAR, "description" VARCHAR, "initialBid" BIGINT, "reserve" BIGINT,
  "dateTime" TIMESTAMP, "expires" TIMESTAMP, "seller" BIGINT, "category" BIGINT, "extra" VARCHAR, "auction" BIGINT,
  "bidder" BIGINT, "price" BIGINT, "bid_dateTime" TIMESTAMP, "bid_extra" VARCHAR);

CREATE VIEW answer AS
SELECT id, "itemName", description, "initialBid", reserve, "dateTime", expires, seller, category, extra,
  id, bidder, price, bid_time, bid_extra
FROM bid_in_time
QUALIFY row_number() OVER (PARTITION BY id ORDER BY price DESC, bid_time, bid_extra) = 1;
