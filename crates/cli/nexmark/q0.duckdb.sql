CREATE TABLE result ("auction" BIGINT, "bidder" BIGINT, "price" BIGINT, "dateTime" TIMESTAMP, "extra" VARCHAR);

CREATE VIEW answer AS
SELECT auction, bidder, price, "dateTime", extra FROM bid;
