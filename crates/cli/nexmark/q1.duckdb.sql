CREATE TABLE result ("auction" BIGINT, "bidder" BIGINT, "price" DECIMAL(23, 3), "dateTime" TIMESTAMP, "extra" VARCHAR);

CREATE VIEW answer AS
SELECT auction, bidder, 0.908::DECIMAL(4, 3) * price, "dateTime", extra FROM bid;
