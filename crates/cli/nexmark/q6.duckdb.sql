CREATE TABLE result ("id" BIGINT, "seller" BIGINT, "avg_price" BIGINT);

CREATE VIEW answer AS
WITH winning AS (
  SELECT id, seller, price, bid_time FROM bid_in_time
  QUALIFY row_number() OVER (PARTITION BY id ORDER BY price DESC, bid_time, bid_extra) = 1
)
SELECT id, seller, sum(price) OVER last_ten // count(*) OVER last_ten
FROM winning
WINDOW last_ten AS (PARTITION BY seller ORDER BY bid_time, id ROWS BETWEEN 9 PRECEDING AND CURRENT ROW);
