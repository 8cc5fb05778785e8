"""What dbt makes of the landed rows: the price of masking, of history, and of a run with nothing to do."""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from benchmarks.harness import ROOT, Bench, NotCountedError, Result, measure, run

MILLION = 1_000_000
HISTORIES = (100_000, 5_000_000)
NEW_ROWS = 10_000
DAYS = 10
INCREMENTAL = ("model.user_logins.user_logins", "model.user_logins.rejected_logins")

# Users, addresses and devices that recur, as in life: in a million logins 300,000 users, 250,000 addresses, 400,000 devices.
LAND = """
    insert into staging.raw_logins (message_id, sent_at, body)
    select
        md5(number::text)::uuid::text,
        now() - (number %% {days}) * interval '1 day',
        format(
            '{{"user_id": "%%s", "app_version": "%%s.%%s.%%s", "device_type": "android", '
            '"ip": "10.%%s.%%s.%%s", "locale": "RU", "device_id": "%%s"}}',
            md5((number %% 300000)::text)::uuid, number %% 5, number %% 7, number %% 11,
            18 + number * 7919 %% 250000 / 65536, number * 7919 %% 250000 / 256 %% 256, number * 7919 %% 250000 %% 256,
            md5((number %% 400000)::text)
        )
    from generate_series(%(first)s::bigint, %(last)s::bigint) as numbers (number)
"""
# The least that anybody would do with these rows: no judging, no sorting out of what landed twice, no dbt.
BARE = """
    insert into marts.bare (
        user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date, ip_is_valid, app_version_parts,
        message_id, sent_at, landed_xid
    )
    select
        user_id::varchar(128), device_type::varchar(32), ip::varchar(256), device_id::varchar(256), locale::varchar(32),
        app_version::varchar(32), (sent_at at time zone 'UTC')::date, true,
        case when app_version ~ '^[0-9]{{1,9}}([.][0-9]{{1,9}})*$' then string_to_array(app_version, '.')::integer[] end,
        message_id, sent_at, landed_xid
    from ({parsed}) as parsed
"""

# Masked long ago: tokens of the right size.
HISTORY = """
    insert into marts.user_logins (
        user_id, device_type, masked_ip, masked_device_id, app_version, create_date, ip_is_valid, message_id, sent_at, landed_xid
    )
    select
        'u', 'android', 'v1:' || md5(body), 'v1:' || md5(message_id), '1', current_date, true, message_id, sent_at, landed_xid
    from staging.raw_logins
"""


@dataclass(frozen=True, slots=True)
class Dbt:
    """dbt on the bench's database; what it writes goes into *directory*."""

    bench: Bench
    directory: Path
    project: Path = ROOT / "dbt_project"

    def run(self, *words: str) -> float:
        """Run `dbt WORDS…` and return how many seconds it took, its start included."""
        dbt = str(Path(sys.executable).with_name("dbt"))
        folders = ["--project-dir", str(self.project), "--profiles-dir", str(ROOT / "dbt_project" / "profiles")]
        paths = ["--target-path", str(self.directory), "--log-path", str(self.directory)]
        started = time.perf_counter()
        run([dbt, *words, *folders, *paths], self.bench.environment | {"DO_NOT_TRACK": "1"})
        return time.perf_counter() - started

    def model_seconds(self) -> float:
        """How long the incremental models took in the last run."""
        results = json.loads((self.directory / "run_results.json").read_text())["results"]
        return float(sum(result["execution_time"] for result in results if result["unique_id"] in INCREMENTAL))

    def parsed_sql(self) -> str:
        """The compiled model that reads and parses the landed rows."""
        return (self.directory / "compiled/user_logins/models/staging/stg_logins.sql").read_text()


@contextmanager
def _dbt(bench: Bench) -> Iterator[Dbt]:
    directory = Path(tempfile.mkdtemp(prefix="user-logins-bench-dbt-"))
    try:
        yield Dbt(bench, directory)
    finally:
        shutil.rmtree(directory)


def _empty(connection: psycopg.Connection) -> None:
    connection.execute("drop table if exists marts.user_logins, marts.rejected_logins, marts.bare cascade")
    connection.execute("truncate staging.raw_logins, staging.watermarks")
    connection.execute(
        "select staging.ensure_partitions(array(select current_date - day from generate_series(-1, %s) as days (day)))", [DAYS]
    )


def _land(connection: psycopg.Connection, first: int, last: int) -> None:
    connection.execute(LAND.format(days=DAYS).encode(), {"first": first, "last": last})


def _taken(connection: psycopg.Connection, expected: int) -> None:
    row = connection.execute("select count(*) from marts.user_logins").fetchone()
    if row != (expected,):
        raise NotCountedError(f"{expected} rows were staged, and user_logins has {row and row[0]}")


@contextmanager
def _unmasked(bench: Bench) -> Iterator[Dbt]:
    """The same dbt project, but that user_logins masks nothing."""
    with _dbt(bench) as dbt:
        project = dbt.directory / "project"
        shutil.copytree(ROOT / "dbt_project", project, ignore=shutil.ignore_patterns("target", "logs", "profiles.yml"))
        shutil.copy(Path(__file__).with_name("unmasked_user_logins.sql"), project / "models" / "marts" / "user_logins.sql")
        yield replace(dbt, project=project)


def _first_run(connection: psycopg.Connection, dbt: Dbt) -> float:
    """Seconds of a `dbt run` over a million rows that were landed since the tables were made."""
    _empty(connection)
    dbt.run("run")  # makes the tables
    _land(connection, 1, MILLION)
    connection.execute("vacuum analyze staging.raw_logins")
    connection.execute("checkpoint")
    seconds = dbt.run("run")
    _taken(connection, MILLION)
    return seconds


def _bare_insert(connection: psycopg.Connection, parsed: str) -> float:
    """Seconds of one statement that parses the rows that were landed, and inserts them."""
    connection.execute("create table marts.bare (like marts.user_logins including all)")
    connection.execute("update staging.watermarks set taken_before = '0'")
    connection.execute("truncate marts.user_logins")
    connection.execute("checkpoint")
    started = time.perf_counter()
    with connection.transaction():
        connection.execute("select staging.open_window('user_logins')")
        connection.execute(BARE.format(parsed=parsed).encode())
    seconds = time.perf_counter() - started
    connection.execute("drop table marts.bare")
    return seconds


@measure
def masking(bench: Bench) -> list[Result]:
    """A first `dbt run` over a million rows, with masking and without, and the least that one statement could do with them."""
    masked, unmasked, bare = [], [], []
    with _dbt(bench) as dbt, _unmasked(bench) as plain, bench.connect() as connection:
        for _ in range(bench.runs):
            unmasked.append(_first_run(connection, plain))
            masked.append(_first_run(connection, dbt))
            dbt.run("compile")
            bare.append(_bare_insert(connection, dbt.parsed_sql()))
    return [
        Result(
            "a first dbt run over 1,000,000 rows ÷ the same run without masking",
            "ratio",
            [one / other for one, other in zip(masked, unmasked, strict=True)],
            at_most=2.0,
        ),
        Result(
            "the same ÷ one statement that parses and inserts, without judging, masking or dbt",
            "ratio",
            [one / other for one, other in zip(masked, bare, strict=True)],
            at_most=2.0,
        ),
        Result("a first dbt run over 1,000,000 rows", "s", masked),
    ]


@measure
def history(bench: Bench) -> list[Result]:
    """A run over 10,000 new rows with much and with little in the tables, and a run with nothing new."""
    seconds: dict[int, list[float]] = {}
    idle = []
    with _dbt(bench) as dbt, bench.connect() as connection:
        for rows in HISTORIES:
            _empty(connection)
            dbt.run("run")
            for first in range(1, rows, MILLION):
                _land(connection, first, min(rows, first + MILLION - 1))
            connection.execute(HISTORY)
            connection.execute("update staging.watermarks set taken_before = pg_current_xact_id()")
            connection.execute("vacuum analyze staging.raw_logins, marts.user_logins")
            connection.execute("checkpoint")
            seconds[rows] = []
            for number in range(bench.runs):
                first = rows + number * NEW_ROWS + 1
                _land(connection, first, first + NEW_ROWS - 1)
                dbt.run("run")
                seconds[rows].append(dbt.model_seconds())
                _taken(connection, first + NEW_ROWS - 1)
        for _ in range(bench.runs):
            start = dbt.run("parse")
            idle.append(dbt.run("run") - start)
    little, much = (seconds[rows] for rows in HISTORIES)
    ratios = [large / small for large, small in zip(much, little, strict=True)]
    return [
        Result("10,000 new rows with 5,000,000 in the table ÷ with 100,000", "ratio", ratios, at_most=1.2),
        Result("10,000 new rows with 5,000,000 in the table", "s", much),
        Result("a dbt run with nothing new, over dbt's own start", "s", idle),
    ]
