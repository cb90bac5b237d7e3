CREATE TABLE result ("auction" BIGINT, "bidder" BIGINT, "price" BIGINT, "dateTime" TIMESTAMP, "value" VARCHAR);

CREATE VIEW answer AS
SELECT auction, bidder, price, "dateTime", value FROM bid JOIN side_input ON auction % 10000 = key;
