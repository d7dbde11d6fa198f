"""Runs the hunting query once over NDJSON with DuckDB: usage: query_once.py hunting-query.kql FILE NOW

FILE holds one record a line, both tables mixed. Only the columns that the query needs are read, with all cores. Repeated
deliveries are not removed, which Defender's own table would have done: that is left out of the time.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "oracle"))

import duckdb_kql
from duckdb_kql import engine
from run_query import DEVICE, NETWORK, adapted


def main(query: str, file: str, now: str) -> None:
    now = now.rstrip("Z")[:26] + "Z"
    con = duckdb_kql.connect()
    begun = time.monotonic()
    columns = {k: v for k, v in {**NETWORK, **DEVICE}.items() if k != "seq"}
    # Seven fractional digits: read as text, cut to the microseconds that the engine knows.
    struct = ", ".join(f'"{k}" {"VARCHAR" if k == "Timestamp" else v}' for k, v in columns.items())
    con.execute(
        f"CREATE TABLE rows AS SELECT category, p.* REPLACE (CAST(left(rtrim(p.Timestamp, 'Z'), 26) AS TIMESTAMP) AS Timestamp) "
        f"FROM (SELECT category, unnest(properties) FROM read_json('{file}', format='newline_delimited', "
        f"columns={{category: 'VARCHAR', properties: 'STRUCT({struct})'}})) p"
    )
    for table, of in (("DeviceNetworkEvents", NETWORK), ("DeviceInfo", DEVICE)):
        names = ", ".join(f'"{k}"' for k in of if k != "seq")
        con.execute(f"CREATE VIEW {table} AS SELECT {names} FROM rows WHERE category = 'AdvancedHunting-{table}'")
    read = time.monotonic()
    sql = duckdb_kql.to_sql(adapted(Path(query).read_text(encoding="utf-8"), now), schema=engine.schema(con))
    translated = time.monotonic()
    found = con.execute(sql).fetchall()
    done = time.monotonic()
    total = con.execute("SELECT count(*) FROM rows").fetchone()[0]
    print(
        f"{total} rows read in {read - begun:.2f} s, query translated in {translated - read:.2f} s, "
        f"run in {done - translated:.2f} s, {len(found)} rows found"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
