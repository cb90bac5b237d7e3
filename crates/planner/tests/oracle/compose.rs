//! Random compositions of relations: joins of aggregates of ranks of unions of …, each with columns `k`, `b`, `x`.

use proptest::prelude::*;
use proptest::sample::select;

/// Returns random relations as SQL, which is the same for streams and tables, up to a limited depth.
pub fn relation() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![Just("SELECT k, b, x FROM t".to_string()), Just("SELECT k, b, x FROM u".to_string())];
    leaf.prop_recursive(4, 12, 2, |inner| {
        prop_oneof![
            2 => (inner.clone(), select(ONE.to_vec())).prop_map(|(r, sql)| sql.replace("{r}", &r)),
            3 => (inner.clone(), inner, select(TWO.to_vec()))
                .prop_map(|(l, r, sql)| sql.replace("{l}", &l).replace("{r}", &r)),
        ]
    })
}

/// Returns every operator by itself, over the tables.
pub fn each() -> impl Iterator<Item = String> {
    let one = ONE.into_iter().map(|sql| sql.replace("{r}", "SELECT k, b, x FROM t"));
    let two =
        TWO.into_iter().map(|sql| sql.replace("{l}", "SELECT k, b, x FROM t").replace("{r}", "SELECT k, b, x FROM u"));
    // Over rows that come and go.
    let over_groups = ONE.into_iter().map(|sql| sql.replace("{r}", "SELECT k, b, max(x) AS x FROM t GROUP BY k, b"));
    one.chain(two).chain(over_groups)
}

/// Operators over one relation.
const ONE: [&str; 27] = [
    "SELECT k, b, unnest(make_array(x, b, NULL)) AS x FROM ({r}) a",
    "SELECT k, unnest(make_array(b)) AS b, unnest(CASE WHEN x > 0 THEN make_array(x, b) END) AS x FROM ({r}) a",
    "SELECT k, b, x FROM ({r}) a WHERE x > 0 OR k IS NULL",
    "SELECT upper(k) AS k, x AS b, b + 1 AS x FROM ({r}) a",
    "SELECT k, count(*) AS b, sum(x) AS x FROM ({r}) a GROUP BY k",
    "SELECT k, min(x) AS b, max(x) AS x FROM ({r}) a GROUP BY k",
    "SELECT k, count(DISTINCT x) AS b, sum(DISTINCT b) AS x FROM ({r}) a GROUP BY k HAVING count(*) > 1",
    "SELECT max(k) AS k, count(x) AS b, max(x) FILTER (WHERE b > 0) AS x FROM ({r}) a",
    "SELECT k, b, CAST(median(x) AS BIGINT) AS x FROM ({r}) a GROUP BY k, b",
    "SELECT CAST(string_agg(k, '+' ORDER BY k) AS VARCHAR) AS k, b, sum(x) AS x FROM ({r}) a GROUP BY b",
    "SELECT k, first_value(b ORDER BY x DESC, b) AS b, last_value(x ORDER BY b, x) AS x FROM ({r}) a GROUP BY k",
    "SELECT k, CAST(avg(x) * 4 AS BIGINT) AS b, CAST(array_length(array_agg(x ORDER BY x)) AS BIGINT) AS x FROM ({r}) a GROUP BY k",
    "SELECT mode(k) AS k, CAST(skewness(x) * 1000 AS BIGINT) AS b, CAST(kurtosis(x) * 1000 AS BIGINT) AS x FROM ({r}) a GROUP BY b",
    "SELECT k, b, CAST(round(stddev_pop(x) * 1000 + 0.123) AS BIGINT) AS x FROM ({r}) a GROUP BY k, b",
    "SELECT k, b, sum(x) AS x FROM ({r}) a GROUP BY ROLLUP (k, b)",
    "SELECT k, b, count(*) AS x FROM ({r}) a GROUP BY GROUPING SETS ((k), (b), ())",
    "SELECT k, b, max(x) AS x FROM ({r}) a GROUP BY CUBE (k, b)",
    "SELECT DISTINCT k, b, x FROM ({r}) a",
    "SELECT DISTINCT ON (k) k, b, x FROM ({r}) a ORDER BY k, x DESC, b",
    "SELECT k, b, x FROM (SELECT k, b, x, row_number() OVER (PARTITION BY k ORDER BY x DESC, b) AS n FROM ({r}) a) a WHERE n <= 2",
    "SELECT k, b, CAST(n AS BIGINT) AS x FROM (SELECT k, b, rank() OVER (PARTITION BY b ORDER BY x) AS n FROM ({r}) a) a WHERE n < 3",
    "SELECT k, b, x FROM (SELECT k, b, x, dense_rank() OVER (ORDER BY x NULLS FIRST) AS n FROM ({r}) a) a WHERE 2 >= n",
    "SELECT k, sum(x) OVER (PARTITION BY k ORDER BY x, b) AS b, lag(x) OVER (PARTITION BY k ORDER BY x, b) AS x FROM ({r}) a",
    "SELECT k, b, max(x) OVER (PARTITION BY b ORDER BY x, k ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS x FROM ({r}) a",
    "SELECT k, b, x FROM ({r}) a ORDER BY x DESC, k, b LIMIT 3",
    "SELECT k, b, x FROM ({r}) a ORDER BY b NULLS FIRST, x, k LIMIT 2 OFFSET 1",
    "SELECT k, CASE WHEN x > 5 THEN b ELSE x END AS b, abs(x) AS x FROM ({r}) a WHERE b IS DISTINCT FROM 1",
];

/// Operators over two relations.
const TWO: [&str; 22] = [
    "SELECT k, b, x FROM ({l}) l WHERE x NOT IN (SELECT x FROM ({r}) r WHERE k = 'K1')",
    "SELECT k, b, x FROM ({l}) l WHERE b NOT IN (SELECT x FROM ({r}) r)",
    "SELECT l.k, r.b, l.x FROM ({l}) l JOIN ({r}) r ON l.k = r.k",
    "SELECT l.k, r.b, l.x - r.x AS x FROM ({l}) l JOIN ({r}) r ON l.k = r.k AND l.x < r.x",
    "SELECT l.k, l.b, r.x FROM ({l}) l LEFT JOIN ({r}) r ON l.b = r.b",
    "SELECT l.k, l.b, r.x FROM ({l}) l LEFT JOIN ({r}) r ON l.k = r.k AND l.b = r.b AND l.x > r.x",
    "SELECT r.k, l.b, r.x FROM ({l}) l RIGHT JOIN ({r}) r ON l.x + 1 = r.x",
    "SELECT coalesce(l.k, r.k) AS k, l.b, r.x FROM ({l}) l FULL JOIN ({r}) r ON l.k = r.k AND l.x <> r.x",
    "SELECT l.k, l.b, r.x FROM ({l}) l CROSS JOIN (SELECT max(x) AS x FROM ({r}) a) r",
    "SELECT k, b, x FROM ({l}) l WHERE k IN (SELECT k FROM ({r}) r)",
    "SELECT k, b, x FROM ({l}) l WHERE EXISTS (SELECT 1 FROM ({r}) r WHERE r.k = l.k AND r.x > l.x)",
    "SELECT k, b, x FROM ({l}) l WHERE NOT EXISTS (SELECT 1 FROM ({r}) r WHERE r.b = l.b)",
    "SELECT k, b, x FROM ({l}) l WHERE x > 10 OR EXISTS (SELECT 1 FROM ({r}) r WHERE r.b = l.b)",
    "SELECT k, b, x FROM ({l}) l WHERE x > (SELECT avg(x) FROM ({r}) r)",
    "SELECT k, b, (SELECT max(x) FROM ({r}) r WHERE r.k = l.k) AS x FROM ({l}) l",
    "SELECT k, b, x FROM ({l}) l UNION ALL SELECT k, b, x FROM ({r}) r",
    "SELECT k, b, x FROM ({l}) l UNION SELECT k, b, x FROM ({r}) r",
    "SELECT k, b, x FROM ({l}) l INTERSECT SELECT k, b, x FROM ({r}) r",
    "SELECT k, b, x FROM ({l}) l EXCEPT SELECT k, b, x FROM ({r}) r",
    "SELECT l.k, l.b, r.x FROM ({l}) l JOIN ({r}) r ON l.k IS NOT DISTINCT FROM r.k",
    "SELECT l.k, l.b, l.x FROM ({l}) l LEFT SEMI JOIN ({r}) r ON l.x = r.x",
    "SELECT l.k, l.b, l.x FROM ({l}) l LEFT ANTI JOIN ({r}) r ON l.x = r.x",
];
