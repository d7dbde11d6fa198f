"""Runs the hunting query at many instants with an independent KQL engine (duckdb-kql) and prints its rows.

usage: run_query.py hunting-query.kql DIRECTORY

DIRECTORY holds network.ndjson and device.ndjson (rows under Defender's column names, and `seq`, their place in the input)
and asks.ndjson ({"now": instant, "upto": how many records of the input have arrived}). For each ask one line is printed: the
list of rows [DeviceName, RemoteIP, RemotePort, Count, Prevalence, [non-empty URLs]], sorted. Instants are whole microseconds.

The query runs as its author wrote it, but for three changes that keep its meaning:
1. under `in`, `summarize make_set(X)` becomes `distinct X` (the engine takes a set from a column, not from a packed list);
2. `ago(X)` becomes the instant minus X;
3. the last two lines, which pack the rows for reading, become a projection of the same columns.
"""

import json
import re
import sys
from pathlib import Path

import duckdb_kql
from duckdb_kql import engine

NETWORK = {
    "seq": "BIGINT", "Timestamp": "TIMESTAMP", "DeviceId": "VARCHAR", "DeviceName": "VARCHAR", "ReportId": "BIGINT",
    "ActionType": "VARCHAR", "RemoteIP": "VARCHAR", "RemoteIPType": "VARCHAR", "RemotePort": "INTEGER",
    "RemoteUrl": "VARCHAR", "InitiatingProcessVersionInfoCompanyName": "VARCHAR",
}
DEVICE = {
    "seq": "BIGINT", "Timestamp": "TIMESTAMP", "DeviceId": "VARCHAR", "DeviceName": "VARCHAR", "OSPlatform": "VARCHAR",
    "DeviceType": "VARCHAR",
}


def adapted(text: str, now: str) -> str:
    """The query with its three changes; each must apply exactly as often as the text has places for it."""
    text, sets = re.subn(r"summarize make_set\((DeviceName|RemoteIP)\)(?=\s*[;)])", r"distinct \1", text)
    text, agos = re.subn(r"\bago\((lookback|1d|5d)\)", rf"(datetime({now}) - \1)", text)
    packed = re.compile(r"\| extend Details = pack\([^\n]*\)\n\| summarize make_set\(Details\) by DeviceName\s*$")
    text, ends = packed.subn("| project DeviceName, RemoteIP, RemotePort, Count, Prevalence, URLs\n", text)
    if (sets, agos, ends) != (3, 6, 1):
        raise SystemExit(f"the query is not the one this was written for: {sets} sets, {agos} agos, {ends} ends")
    return text


def load(con, directory: Path, table: str, columns: dict, distinct: str) -> None:
    """Makes `table` a view of the rows that have arrived; `distinct` is the identity that the table holds once."""
    path = directory / {"DeviceNetworkEvents": "network.ndjson", "DeviceInfo": "device.ndjson"}[table]
    con.execute(
        f"CREATE TABLE {table}_rows AS SELECT * FROM read_json('{path}', format='newline_delimited', columns={columns}) "
        f"QUALIFY row_number() OVER (PARTITION BY {distinct} ORDER BY seq) = 1 ORDER BY seq"
    )
    con.execute(f"CREATE VIEW {table} AS SELECT * EXCLUDE seq FROM {table}_rows WHERE seq < getvariable('upto')")


def main(query: str, directory: Path) -> None:
    text = Path(query).read_text(encoding="utf-8")
    con = duckdb_kql.connect(config={"threads": 1})
    con.execute("SET VARIABLE upto = 0")
    load(con, directory, "DeviceNetworkEvents", NETWORK, "DeviceId, ReportId, Timestamp")
    load(con, directory, "DeviceInfo", DEVICE, "seq")
    schema = engine.schema(con)
    asks = [json.loads(line) for line in (directory / "asks.ndjson").read_text().splitlines()]
    # Translating costs more than running. Only the instant differs, so one translation serves all; the first ask of all proves it.
    sign = "2001-02-03T04:05:06.070809Z"
    translated = duckdb_kql.to_sql(adapted(text, sign), schema=schema)
    fresh = duckdb_kql.to_sql(adapted(text, asks[0]["now"]), schema=schema)
    if translated.replace(sign, asks[0]["now"]) != fresh:
        raise SystemExit("the engine translates the query differently at another instant")
    for ask in asks:
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", ask["now"]):
            raise SystemExit(f"{ask['now']} is not on a microsecond, which is as fine as the engine knows")
        con.execute(f"SET VARIABLE upto = {int(ask['upto'])}")
        rows = []
        for device, ip, port, count, prevalence, urls in con.execute(translated.replace(sign, ask["now"])).fetchall():
            rows.append([device, ip, port, count, prevalence, sorted(url for url in json.loads(urls) if url)])
        rows.sort(key=lambda row: (row[0], row[1], -1 if row[2] is None else row[2]))
        print(json.dumps(rows))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
