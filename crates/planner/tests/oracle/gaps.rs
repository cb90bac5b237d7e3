//! Forms of SQL from Spark and Flink, each for the stream and in DataFusion's SQL.

/// A relation with columns `k`, `b`, `x`, and its equivalent if DataFusion lacks the form or computes it wrongly.
pub type Form = (&'static str, Option<&'static str>);

const fn same(sql: &'static str) -> Form {
    (sql, None)
}

const fn means(sql: &'static str, meaning: &'static str) -> Form {
    (sql, Some(meaning))
}

pub const FORMS: &[Form] = &[
    // Several orders and partitions in one SELECT.
    same(
        "SELECT k, sum(x) OVER (PARTITION BY k ORDER BY id) AS b, row_number() OVER (PARTITION BY b ORDER BY x, id) AS x FROM t",
    ),
    same(
        "SELECT k, max(x) OVER (PARTITION BY b) AS b, lag(x) OVER (PARTITION BY k ORDER BY id) + count(*) OVER () AS x FROM t",
    ),
    same("SELECT k, b, x FROM t QUALIFY row_number() OVER (PARTITION BY k ORDER BY x DESC, id) <= 2"),
    same("SELECT k, b, x FROM t QUALIFY rank() OVER (PARTITION BY k ORDER BY x DESC) = 1 AND b > 0"),
    same(
        "SELECT k, b, x FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY x, id) AS n FROM t) WHERE n BETWEEN 2 AND 3",
    ),
    same(
        "SELECT k, b, x FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY x, id) AS n FROM t) WHERE n = 2 AND x > 0",
    ),
    same(
        "SELECT k, b, x FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY x, id) AS n, rank() OVER (PARTITION BY k ORDER BY x, id) AS m FROM t) WHERE n <= 3 AND m < 3 OR x < 0",
    ),
    same(
        "SELECT k, b, x FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY x, id) AS n, sum(x) OVER (PARTITION BY k ORDER BY x, id) AS s FROM t) WHERE n <= 2 AND s > 0",
    ),
    same("SELECT k, sum(x) OVER w AS b, count(*) OVER w AS x FROM t WINDOW w AS (PARTITION BY k ORDER BY id)"),
    same(
        "SELECT k, sum(x) OVER (PARTITION BY k ORDER BY ts RANGE BETWEEN INTERVAL '2' SECOND PRECEDING AND CURRENT ROW) AS b, 1 AS x FROM t",
    ),
    same(
        "SELECT k, sum(x) OVER (PARTITION BY k ORDER BY b RANGE BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS b, 1 AS x FROM t WHERE b IS NOT NULL",
    ),
    same(
        "SELECT k, first_value(x) OVER (PARTITION BY k ORDER BY id) AS b, last_value(x) IGNORE NULLS OVER (PARTITION BY k ORDER BY id) AS x FROM t",
    ),
    same(
        "SELECT k, ntile(3) OVER (PARTITION BY k ORDER BY id) AS b, nth_value(x, 2) OVER (PARTITION BY k ORDER BY id) AS x FROM t",
    ),
    same(
        "SELECT k, CAST(percent_rank() OVER (PARTITION BY k ORDER BY id) * 1000 AS BIGINT) AS b, CAST(cume_dist() OVER (PARTITION BY k ORDER BY x) * 1000 AS BIGINT) AS x FROM t",
    ),
    same(
        "SELECT k, lead(x, 2, -1) OVER (PARTITION BY k ORDER BY id) AS b, lag(x) IGNORE NULLS OVER (PARTITION BY k ORDER BY id) AS x FROM t",
    ),
    same(
        "SELECT k, count(DISTINCT x) OVER (PARTITION BY k) AS b, sum(x) FILTER (WHERE x > 0) OVER (PARTITION BY b ORDER BY id) AS x FROM t",
    ),
    same(
        "SELECT k, sum(x) OVER (PARTITION BY k ORDER BY k, id) AS b, count(*) OVER (PARTITION BY k ORDER BY id ROWS 1 PRECEDING) AS x FROM t",
    ),
    // Limits.
    means(
        "SELECT k, b, x FROM t ORDER BY x, id FETCH FIRST 3 ROWS ONLY",
        "SELECT k, b, x FROM t ORDER BY x, id LIMIT 3",
    ),
    means(
        "SELECT k, b, x FROM t ORDER BY x, id OFFSET 2 ROWS FETCH NEXT ROW ONLY",
        "SELECT k, b, x FROM t ORDER BY x, id LIMIT 1 OFFSET 2",
    ),
    same("SELECT DISTINCT k, b, x FROM t ORDER BY x, k, b LIMIT 3"),
    means(
        "SELECT k, b, count(*) AS x FROM t GROUP BY ALL ORDER BY ALL LIMIT 3",
        "SELECT k, b, count(*) AS x FROM t GROUP BY k, b ORDER BY k, b, x LIMIT 3",
    ),
    same("SELECT k, b, count(*) AS x FROM t GROUP BY 1, 2"),
    same("SELECT * EXCEPT (id, f, ts) FROM (SELECT id, k, b, x, f, ts FROM t)"),
    same("SELECT * EXCLUDE (id, f, ts) REPLACE (x + 1 AS x) FROM (SELECT id, k, b, x, f, ts FROM t)"),
    // Lists.
    means(
        "SELECT k, b, e AS x FROM t CROSS JOIN UNNEST(make_array(x, b)) AS v (e)",
        "SELECT k, b, unnest(make_array(x, b)) AS x FROM t",
    ),
    means(
        "SELECT k, i AS b, e AS x FROM t CROSS JOIN UNNEST(make_array(x, b)) WITH ORDINALITY AS v (e, i)",
        "SELECT k, unnest(make_array(1, 2)) AS b, unnest(make_array(x, b)) AS x FROM t",
    ),
    means(
        "SELECT k, i AS b, e AS x FROM t LEFT JOIN UNNEST(CASE WHEN x > 0 THEN make_array(x, b) END) WITH ORDINALITY AS v (e, i) ON TRUE",
        "SELECT k, unnest(make_array(1, 2)) AS b, unnest(make_array(x, b)) AS x FROM t WHERE x > 0 UNION ALL SELECT k, NULL, NULL FROM t WHERE NOT coalesce(x > 0, false)",
    ),
    means(
        "SELECT k, p AS b, q AS x FROM t CROSS JOIN UNNEST(make_array(named_struct('p', b, 'q', x), named_struct('p', x, 'q', b))) AS v (p, q)",
        "SELECT k, b, x FROM t UNION ALL SELECT k, x, b FROM t",
    ),
    means(
        "SELECT k, v.p AS b, v.q AS x FROM t CROSS JOIN UNNEST(make_array(named_struct('p', b, 'q', x), named_struct('p', x, 'q', b))) AS v",
        "SELECT k, b, x FROM t UNION ALL SELECT k, x, b FROM t",
    ),
    means(
        "SELECT k, key AS b, value AS x FROM t CROSS JOIN UNNEST(map(make_array(1, 2), make_array(b, x))) AS m (key, value)",
        "SELECT k, 1 AS b, b AS x FROM t UNION ALL SELECT k, 2, x FROM t",
    ),
    means(
        "SELECT k, e AS b, x FROM t LATERAL VIEW explode(make_array(b, x)) v AS e",
        "SELECT k, unnest(make_array(b, x)) AS b, x FROM t",
    ),
    means(
        "SELECT k, p AS b, e AS x FROM t LATERAL VIEW posexplode(make_array(b, x)) v AS p, e",
        "SELECT k, unnest(make_array(0, 1)) AS b, unnest(make_array(b, x)) AS x FROM t",
    ),
    means(
        "SELECT k, e AS b, x FROM t LATERAL VIEW OUTER explode(CASE WHEN x > 0 THEN make_array(b) END) v AS e",
        "SELECT k, CASE WHEN x > 0 THEN b END AS b, x FROM t",
    ),
    // VALUES.
    same("SELECT k, b, v.n AS x FROM t CROSS JOIN (VALUES (1, 'a'), (2, 'b')) AS v (n, name)"),
    same("SELECT v.name AS k, b, x FROM t JOIN (VALUES (1, 'a'), (2, 'b')) AS v (n, name) ON t.b = v.n"),
    same("SELECT v.name AS k, b, x FROM t LEFT JOIN (VALUES (1, 'a'), (2, 'b')) AS v (n, name) ON t.b = v.n AND x > 0"),
    same("SELECT k, b, x FROM t WHERE b IN (SELECT n FROM (VALUES (1), (2)) AS v (n))"),
    same("SELECT k, b, x FROM t WHERE b NOT IN (SELECT n FROM (VALUES (1), (NULL)) AS v (n))"),
    same("SELECT k, s.b, x FROM t CROSS JOIN (SELECT 7 AS b) s"),
    same(
        "SELECT v.name AS k, b, s AS x FROM (SELECT b, sum(x) AS s FROM t GROUP BY b) g JOIN (VALUES (1, 'a'), (2, 'b')) AS v (n, name) ON g.b = v.n",
    ),
    // Subqueries.
    same("SELECT k, b, x FROM (SELECT k, b, x, (SELECT max(x) FROM u) AS y FROM t)"),
    same("SELECT k, b, x FROM t CROSS JOIN (SELECT max(x) AS m FROM u) v"),
    same("SELECT k, b, x FROM t WHERE x > (SELECT avg(x) FROM u WHERE u.k = t.k)"),
    same("SELECT k, max(b) AS b, sum(x) AS x FROM t GROUP BY k HAVING sum(x) > (SELECT min(x) FROM u)"),
    same("SELECT k, b, CASE WHEN x > (SELECT min(x) FROM u WHERE u.b = t.b) THEN 1 ELSE 0 END AS x FROM t"),
    same("SELECT k, b, (SELECT count(*) FROM u WHERE u.k = t.k AND u.x > 0) AS x FROM t"),
    means(
        "SELECT k, b, CASE WHEN EXISTS (SELECT 1 FROM u WHERE u.k = t.k) THEN 1 ELSE 0 END AS x FROM t",
        "SELECT k, b, CASE WHEN (SELECT count(*) FROM u WHERE u.k = t.k) > 0 THEN 1 ELSE 0 END AS x FROM t",
    ),
    means(
        "SELECT k, b, CASE WHEN x IN (SELECT x FROM u) THEN 1 WHEN x NOT IN (SELECT x FROM u) THEN 2 ELSE 3 END AS x FROM t",
        IN_SELECT,
    ),
    means(
        "SELECT k, sum(CASE WHEN EXISTS (SELECT 1 FROM u WHERE u.b = t.b) THEN 1 ELSE 0 END) AS b, 1 AS x FROM t GROUP BY k",
        "SELECT k, sum(c) AS b, 1 AS x FROM (SELECT k, CASE WHEN (SELECT count(*) FROM u WHERE u.b = t.b) > 0 THEN 1 ELSE 0 END AS c FROM t) GROUP BY k",
    ),
    means(
        "SELECT k, b, x FROM t WHERE x NOT IN (SELECT x FROM u WHERE u.k = t.k)",
        "SELECT k, b, x FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.k = t.k AND (u.x = t.x OR u.x IS NULL OR t.x IS NULL))",
    ),
    means(
        "SELECT k, b, x FROM t WHERE b > 0 OR x NOT IN (SELECT x FROM u)",
        "SELECT k, b, x FROM t WHERE b > 0 OR (SELECT count(*) FROM u) = 0 OR (x IS NOT NULL AND (SELECT count(*) FROM u WHERE x IS NULL) = 0 AND NOT EXISTS (SELECT 1 FROM u WHERE u.x = t.x))",
    ),
    means(
        "SELECT k, b, x FROM t WHERE b > 0 OR NOT (x IN (SELECT x FROM u WHERE k = 'K1'))",
        "SELECT k, b, x FROM t WHERE b > 0 OR (SELECT count(*) FROM u WHERE k = 'K1') = 0 OR (x IS NOT NULL AND (SELECT count(*) FROM u WHERE x IS NULL AND k = 'K1') = 0 AND NOT EXISTS (SELECT 1 FROM u WHERE u.x = t.x AND k = 'K1'))",
    ),
    means(
        "SELECT k, b, x FROM t WHERE (x IN (SELECT x FROM u)) IS NULL",
        "SELECT k, b, x FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.x = t.x) AND (x IS NULL AND (SELECT count(*) FROM u) > 0 OR (SELECT count(*) FROM u WHERE x IS NULL) > 0)",
    ),
    means(
        "SELECT k, b, x FROM t WHERE (b, x) IN (SELECT b, x FROM u)",
        "SELECT k, b, x FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.b = t.b AND u.x = t.x)",
    ),
    means(
        "SELECT k, b, x FROM t WHERE (k, b) NOT IN (SELECT k, b FROM u)",
        "SELECT k, b, x FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE (u.k = t.k OR u.k IS NULL OR t.k IS NULL) AND (u.b = t.b OR u.b IS NULL OR t.b IS NULL))",
    ),
    means(
        "SELECT k, b, x FROM t WHERE x = ANY (SELECT x FROM u)",
        "SELECT k, b, x FROM t WHERE x IN (SELECT x FROM u)",
    ),
    means(
        "SELECT k, b, x FROM t WHERE x >= ALL (SELECT x FROM u WHERE x IS NOT NULL)",
        "SELECT k, b, x FROM t WHERE x IS NOT NULL AND x >= (SELECT max(x) FROM u) OR (SELECT count(x) FROM u) = 0",
    ),
    means(
        "SELECT k, b, x FROM t WHERE x <> ALL (SELECT x FROM u)",
        "SELECT k, b, x FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.x = t.x OR u.x IS NULL OR t.x IS NULL)",
    ),
    means(
        "SELECT k, b, x FROM t WHERE x > ANY (SELECT x FROM u)",
        "SELECT k, b, x FROM t WHERE x > (SELECT min(x) FROM u)",
    ),
    same("SELECT t.k, t.b, s.x FROM t CROSS JOIN LATERAL (SELECT sum(x) AS x FROM u WHERE u.k = t.k) s"),
    same("SELECT t.k, t.b, s.x FROM t LEFT JOIN LATERAL (SELECT max(x) AS x FROM u WHERE u.k = t.k) s ON TRUE"),
    same("SELECT t.k, t.b, s.x FROM t JOIN LATERAL (SELECT x FROM u WHERE u.k = t.k AND u.x > t.x) s ON TRUE"),
    // Sets and joins.
    // DataFusion does not count here how often a row is there.
    means(
        "SELECT k, b, x FROM t INTERSECT ALL SELECT k, b, x FROM u",
        "SELECT k, b, x FROM (SELECT k, b, x, row_number() OVER (PARTITION BY k, b, x) AS n FROM t INTERSECT SELECT k, b, x, row_number() OVER (PARTITION BY k, b, x) AS n FROM u)",
    ),
    means(
        "SELECT k, b, x FROM t EXCEPT ALL SELECT k, b, x FROM u",
        "SELECT k, b, x FROM (SELECT k, b, x, row_number() OVER (PARTITION BY k, b, x) AS n FROM t EXCEPT SELECT k, b, x, row_number() OVER (PARTITION BY k, b, x) AS n FROM u)",
    ),
    means(
        "SELECT k, b, x FROM t WHERE x >= ALL (SELECT x FROM t WHERE x IS NOT NULL)",
        "SELECT k, b, x FROM t WHERE x = (SELECT max(x) FROM t) OR (SELECT count(x) FROM t) = 0",
    ),
    same("SELECT k, b, u.x FROM t JOIN u USING (k, b)"),
    same("SELECT k, b, x FROM (SELECT k, b FROM t) NATURAL JOIN (SELECT k, x FROM u)"),
    same(
        "WITH a AS (SELECT k, b, x FROM t), c AS (SELECT k, max(x) AS x FROM a GROUP BY k) SELECT a.k, a.b, c.x FROM a JOIN c ON a.k = c.k",
    ),
    same("WITH a AS (WITH b AS (SELECT k, b, x FROM t) SELECT * FROM b) SELECT * FROM a UNION ALL SELECT * FROM a"),
    // Aggregates.
    means(
        "SELECT k, count(DISTINCT b, x) AS b, 1 AS x FROM t GROUP BY k",
        "SELECT k, count(DISTINCT CASE WHEN b IS NOT NULL AND x IS NOT NULL THEN concat(b, '|', x) END) AS b, 1 AS x FROM t GROUP BY k",
    ),
    means(
        "SELECT listagg(k, ',') AS k, b, 1 AS x FROM (SELECT DISTINCT k, b FROM t) GROUP BY b",
        "SELECT string_agg(k, ',' ORDER BY k) AS k, b, 1 AS x FROM (SELECT DISTINCT k, b FROM t) GROUP BY b",
    ),
    means(
        "SELECT k, max_by(b, x) AS b, min_by(x, b) AS x FROM (SELECT k, b, max(x) AS x FROM t GROUP BY k, b) GROUP BY k",
        "SELECT k, first_value(b ORDER BY x DESC, b) FILTER (WHERE x IS NOT NULL) AS b, first_value(x ORDER BY b, x) FILTER (WHERE b IS NOT NULL) AS x FROM (SELECT k, b, max(x) AS x FROM t GROUP BY k, b) GROUP BY k",
    ),
    same("SELECT k, bit_and(x) AS b, bit_xor(x) AS x FROM t GROUP BY k"),
    same("SELECT k, CAST(bool_and(x > 0) AS INT) AS b, CAST(bool_or(x > 40) AS INT) AS x FROM t GROUP BY k"),
    same("SELECT k, grouping(k) AS b, count(*) AS x FROM t GROUP BY ROLLUP (k)"),
    means(
        "SELECT k, grouping_id(k, b) AS b, count(*) AS x FROM t GROUP BY CUBE (k, b)",
        "SELECT k, grouping(k) * 2 + grouping(b) AS b, count(*) AS x FROM t GROUP BY CUBE (k, b)",
    ),
    same("SELECT k, grouping(k) + grouping(b) AS b, sum(x) AS x FROM t GROUP BY GROUPING SETS ((k, b), (k), ())"),
    same("SELECT k, count(DISTINCT b) AS b, sum(x) AS x FROM t GROUP BY k HAVING count(DISTINCT x) > 1"),
    same("SELECT k, b, string_agg(DISTINCT k, ',' ORDER BY k) FILTER (WHERE x > 0) AS x FROM t GROUP BY k, b"),
    same(
        "SELECT k, CAST(array_length(array_agg(DISTINCT x)) AS BIGINT) AS b, approx_distinct(b) AS x FROM t GROUP BY k",
    ),
    means(
        "SELECT k, b, count(*) AS x FROM t GROUP BY k, b WITH ROLLUP",
        "SELECT k, b, count(*) AS x FROM t GROUP BY ROLLUP (k, b)",
    ),
    means(
        "SELECT k, any_value(b) AS b, count(*) AS x FROM t GROUP BY k",
        "SELECT k, min(b) AS b, count(*) AS x FROM t GROUP BY k",
    ),
    // Values that look random are the same when a batch runs again.
    means(
        "SELECT k, CAST(r < 1 AND r >= 0 AS INT) AS b, CAST(length(u) AS BIGINT) AS x FROM (SELECT k, random() AS r, uuid() AS u FROM t)",
        "SELECT k, 1 AS b, 36 AS x FROM t",
    ),
    // Computed columns: `y AS x * 2 + b` of both tables, and the event time of u.
    means("SELECT k, b, y AS x FROM t WHERE y > 3", "SELECT k, b, x * 2 + b AS x FROM t WHERE x * 2 + b > 3"),
    means(
        "SELECT t.k, u.y AS b, t.y AS x FROM t JOIN u ON t.y = u.y",
        "SELECT t.k, u.x * 2 + u.b AS b, t.x * 2 + t.b AS x FROM t JOIN u ON t.x * 2 + t.b = u.x * 2 + u.b",
    ),
];

const IN_SELECT: &str = "SELECT k, b, CASE WHEN (SELECT count(*) FROM u WHERE u.x = t.x) > 0 THEN 1 \
    WHEN (SELECT count(*) FROM u) = 0 OR (x IS NOT NULL AND (SELECT count(*) FROM u WHERE x IS NULL) = 0) THEN 2 ELSE 3 END AS x FROM t";
