"""Compares the results of Nexmark queries with those of DuckDB, an engine that shares no code with Highwater.

usage: compare.py EVENTS RESULTS...

EVENTS is a folder with the records of the event topics, one JSON document per line (person.json, auction.json,
bid.json), and side-input.csv.
RESULTS are folders with the records of the result topics: qN.json, one {"p": partition, "o": offset, "k": key, "v":
value} per line. Topics with keys are folded: the last value of a key counts; a last value of null deletes the key.
The files qN.duckdb.sql beside this one define the columns of a result (`result`), the expected rows (`answer`), and for
q12 the part of the result that is compared (`compared`).

Writes one JSON document per query and folder to stdout; exits with 1 if any of them differs.
"""

import json
import os
import pathlib
import sys

import duckdb

HERE = pathlib.Path(__file__).parent
# Number of differing rows to print.
SHOWN = 5

PERSON = """id BIGINT, name VARCHAR, "emailAddress" VARCHAR, "creditCard" VARCHAR, city VARCHAR, state VARCHAR,
  "dateTime" TIMESTAMP, extra VARCHAR"""
AUCTION = """id BIGINT, "itemName" VARCHAR, description VARCHAR, "initialBid" BIGINT, reserve BIGINT,
  "dateTime" TIMESTAMP, expires TIMESTAMP, seller BIGINT, category BIGINT, extra VARCHAR"""
BID = """auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, "dateTime" TIMESTAMP,
  extra VARCHAR"""


def quoted(path):
    return "'" + str(path).replace("'", "''") + "'"


def columns(declared):
    """Returns the `columns` argument of read_json for an SQL declaration."""
    pairs = (column.split() for column in declared.replace('"', "").split(","))
    return "{" + ", ".join(f"'{name}': '{kind}'" for name, kind in pairs) + "}"


def load_events(con, events):
    for name, declared in [("person", PERSON), ("auction", AUCTION), ("bid", BID)]:
        con.execute(f"CREATE TABLE {name} ({declared})")
        path = quoted(events / f"{name}.json")
        con.execute(
            f"INSERT INTO {name} SELECT * FROM read_json({path}, format = 'newline_delimited', "
            f"columns = {columns(declared)}, timestampformat = '%Y-%m-%d %H:%M:%S.%g')"
        )
    con.execute(
        f"CREATE TABLE side_input AS SELECT * FROM read_csv({quoted(events / 'side-input.csv')}, header = false, "
        "columns = {'key': 'BIGINT', 'value': 'VARCHAR'})"
    )
    # The watermark once all partitions are read to their ends: the greatest time minus the delay of WATERMARK.
    con.execute("CREATE TABLE watermark (stream VARCHAR, reached TIMESTAMP)")
    for name in ["person", "auction", "bid"]:
        con.execute(
            f"INSERT INTO watermark SELECT '{name}', max(\"dateTime\") - INTERVAL 4 SECOND FROM {name}"
        )
    con.execute(
        """CREATE VIEW bid_in_time AS
        SELECT auction.*, bidder, price, bid."dateTime" AS bid_time, bid.extra AS bid_extra
        FROM auction JOIN bid ON auction.id = bid.auction
          AND bid."dateTime" >= auction."dateTime" AND bid."dateTime" <= auction.expires"""
    )


def load_result(con, path):
    """Reads a topic into `result`, folded by key. Returns what is wrong with its records, or None."""
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE raw AS SELECT * FROM read_json({quoted(path)}, format = 'newline_delimited', "
        "columns = {'p': 'INTEGER', 'o': 'BIGINT', 'k': 'VARCHAR', 'v': 'JSON'}, maximum_object_size = 67108864)"
    )
    described = con.execute("DESCRIBE result").fetchall()
    names = [name for name, *_ in described]
    for (keys,) in con.execute("SELECT DISTINCT json_keys(v) FROM raw WHERE json_type(v) <> 'NULL'").fetchall():
        if keys != names:
            return f"a record has the fields {keys}, not {names}"
    moved = con.execute("SELECT k FROM raw WHERE k IS NOT NULL GROUP BY k HAVING count(DISTINCT p) > 1 LIMIT 1")
    if key := moved.fetchone():
        return f"key {key[0]} is in two partitions"
    if con.execute("SELECT 1 FROM raw WHERE k IS NULL AND (v IS NULL OR json_type(v) = 'NULL') LIMIT 1").fetchone():
        return "a record has neither key nor value"
    shape = json.dumps({name: kind for name, kind, *_ in described})
    con.execute("DELETE FROM result")
    # In a struct, since arg_max ignores NULLs, and a tombstone must count as the last record of its key.
    con.execute(
        f"""INSERT INTO result SELECT unnest(json_transform_strict(v, '{shape}'))
        FROM (
          SELECT v FROM raw WHERE k IS NULL
          UNION ALL SELECT arg_max(struct_pack(v := v), o).v FROM raw WHERE k IS NOT NULL GROUP BY k
        )
        WHERE v IS NOT NULL AND json_type(v) <> 'NULL'"""
    )
    return None


def difference(con):
    """Returns some rows of `expected` and of `given` that the other lacks, with the number of missing copies."""
    rows = con.execute(
        f"""SELECT COLUMNS(*) FROM (
          FROM (SELECT *, 1 AS surplus_ FROM given UNION ALL SELECT *, -1 FROM expected)
          SELECT * EXCLUDE surplus_, sum(surplus_) AS surplus_ GROUP BY ALL HAVING surplus_ <> 0
        ) ORDER BY ALL LIMIT {SHOWN}"""
    ).fetchall()
    return [f"{'surplus' if row[-1] > 0 else 'missing'}: {row[:-1]}" for row in rows]


def compare(con, path):
    """Compares the result in one folder with `expected`."""
    wrong = load_result(con, path)
    if wrong is not None:
        return {"wrong": wrong}
    views = [name for (name,) in con.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()]
    compared = "compared" if "compared" in views else "result"
    con.execute(f"CREATE OR REPLACE TEMP TABLE given AS FROM {compared}")
    verdict = {"rows": con.execute("SELECT count(*) FROM given").fetchone()[0]}
    if differing := difference(con):
        expected = con.execute("SELECT count(*) FROM expected").fetchone()[0]
        verdict["wrong"] = {"expectedRows": expected, "rows": differing}
    return verdict


def main():
    events, results = pathlib.Path(sys.argv[1]), [pathlib.Path(folder) for folder in sys.argv[2:]]
    # Loaded once for all comparisons with these events.
    database = events / "events.duckdb"
    is_loaded = database.exists()
    con = duckdb.connect(str(database))
    con.execute("SET preserve_insertion_order = false")
    # Kafka and its page cache need memory, too; DuckDB spills the rest to disk.
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    con.execute(f"SET memory_limit = '{memory // 3 // 2**20}MiB'")
    con.execute(f"SET temp_directory = {quoted(events / 'spilled')}")
    if not is_loaded:
        load_events(con, events)
    differs = False
    for number in range(24):
        name = f"q{number}"
        given = [(folder, folder / f"{name}.json") for folder in results if (folder / f"{name}.json").exists()]
        if not given:
            continue
        con.execute((HERE / f"{name}.duckdb.sql").read_text())
        con.execute("CREATE TABLE expected AS FROM answer")
        for folder, path in given:
            verdict = {"query": name, "results": folder.name, **compare(con, path)}
            differs = differs or "wrong" in verdict
            print(json.dumps(verdict), flush=True)
        con.execute("DROP VIEW IF EXISTS compared; DROP VIEW answer; DROP TABLE expected; DROP TABLE result")
    sys.exit(1 if differs else 0)


if __name__ == "__main__":
    main()
