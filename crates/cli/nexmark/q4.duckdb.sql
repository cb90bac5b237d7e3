CREATE TABLE result ("id" BIGINT, "final" BIGINT);

CREATE VIEW answer AS
SELECT category, sum(final) // count(*)
FROM (SELECT category, max(price) AS final FROM bid_in_time GROUP BY id, category)
GROUP BY category;
