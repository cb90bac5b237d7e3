CREATE TABLE result ("auction" BIGINT, "bidder" BIGINT, "price" DECIMAL(23, 3), "bidTimeType" VARCHAR,
  "dateTime" TIMESTAMP, "extra" VARCHAR, "c_counts" BIGINT);

CREATE VIEW answer AS
SELECT auction, bidder, 0.908::DECIMAL(4, 3) * price AS euros,
  CASE
    WHEN hour("dateTime") BETWEEN 8 AND 18 THEN 'dayTime'
    WHEN hour("dateTime") IN (7, 19) THEN 'otherTime'
    ELSE 'nightTime'
  END,
  "dateTime", extra, len(list_filter(string_split(extra, ''), lambda letter: letter = 'c'))
FROM bid WHERE euros > 1000000 AND euros < 50000000;
