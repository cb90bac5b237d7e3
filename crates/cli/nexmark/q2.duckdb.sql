CREATE TABLE result ("auction" BIGINT, "price" BIGINT);

CREATE VIEW answer AS
SELECT auction, price FROM bid WHERE auction % 123 = 0;
