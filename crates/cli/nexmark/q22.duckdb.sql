CREATE TABLE result ("auction" BIGINT, "bidder" BIGINT, "price" BIGINT, "channel" VARCHAR, "dir1" VARCHAR,
  "dir2" VARCHAR, "dir3" VARCHAR);

CREATE VIEW answer AS
SELECT auction, bidder, price, channel,
  string_split(url, '/')[4], string_split(url, '/')[5], string_split(url, '/')[6]
FROM bid;
