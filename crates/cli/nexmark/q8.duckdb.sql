CREATE TABLE result ("id" BIGINT, "name" VARCHAR, "stime" TIMESTAMP);

CREATE VIEW answer AS
SELECT DISTINCT person.id, name, time_bucket(INTERVAL 10 SECOND, person."dateTime") AS stime
FROM person JOIN auction ON seller = person.id
  AND time_bucket(INTERVAL 10 SECOND, person."dateTime") = time_bucket(INTERVAL 10 SECOND, auction."dateTime")
WHERE stime + INTERVAL 10 SECOND <= (SELECT min(reached) FROM watermark WHERE stream IN ('person', 'auction'));
