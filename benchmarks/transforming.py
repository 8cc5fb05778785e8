"""What dbt makes of the landed rows: the price of a first run, of history, and of a run with nothing to do."""

import datetime as dt
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import psycopg

from benchmarks.harness import ROOT, Bench, NotCountedError, Result, measure, run
from loader.migrate import migrate
from sandbox.processes import wait_until

MILLION = 1_000_000
HISTORIES = (100_000, 5_000_000)
NEW_ROWS = 10_000
DAYS = 10
RUN_SECONDS = 600
INCREMENTAL = ("model.user_logins.user_logins", "model.user_logins.rejected_logins")

# Sent one after another on each of ten days. Users, addresses and devices recur, as in life: in a million logins 300,000 users,
# 250,000 addresses, 400,000 devices.
LAND = """
    with

    incoming as (
        select
            md5(number::text)::uuid::text as message_id,
            now() - (number %% {days}) * interval '1 day' - (number %% 8640000) * interval '10 ms' as sent_at,
            format(
                '{{"user_id": "%%s", "app_version": "%%s.%%s.%%s", "device_type": "android", '
                '"ip": "10.%%s.%%s.%%s", "locale": "RU", "device_id": "%%s"}}',
                md5((number %% 300000)::text)::uuid, number %% 5, number %% 7, number %% 11,
                18 + number * 7919 %% 250000 / 65536, number * 7919 %% 250000 / 256 %% 256, number * 7919 %% 250000 %% 256,
                md5((number %% 400000)::text)
            ) as body
        from generate_series(%(first)s::bigint, %(last)s::bigint) as numbers (number)
    ),

    listed as (
        insert into staging.unjudged (message_id, sent_at, is_wrapped)
        select message_id, sent_at, staging.body_is_wrapped(body) from incoming
    )

    insert into staging.raw_logins (message_id, sent_at, body) select message_id, sent_at, body from incoming
"""
# The least that anybody would do with these rows: no judging, no sorting out of what landed twice, no dbt.
BARE = """
    insert into marts.bare (
        user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date, ip_is_valid, app_version_parts,
        message_id, sent_at
    )
    select
        event ->> 'user_id', event ->> 'device_type', event ->> 'ip', event ->> 'device_id', event ->> 'locale', event ->> 'app_version',
        (sent_at at time zone 'UTC')::date, true,
        case
            when event ->> 'app_version' ~ '^[0-9]{1,9}([.][0-9]{1,9})*$'
                then string_to_array(event ->> 'app_version', '.')::integer[]
        end,
        message_id, sent_at
    from (select message_id, sent_at, staging.event(body) as event from staging.raw_logins limit all) as parsed
"""

# begin_judging() makes the months of what is on the list.
MONTHS = "begin isolation level repeatable read; select staging.begin_judging(); commit"

# As many as a public file has; a quarter of a million addresses lie in a thousand of them.
RANGES = """
    insert into staging.ip_ranges (file_name, file_date, ranges, first_numbers, countries, asns)
    select
        'generated', now(), count(*), array_agg(masking.ip_number('10.0.0.0'::inet + number * 256) order by number),
        array_agg(number % 676 + 1 order by number), array_agg(number % 70000 + 1 order by number)
    from generate_series(0, 499999) as numbers (number)
"""

# The model's lines, and those of its yml, that are about such columns.
LOOKED_UP = re.compile(r"^    ip_(country|asn),\n|^      - name: ip_(country|asn)\n(        .*\n|          .*\n)*", re.MULTILINE)

NO_LOOKUPS = """
    delete from masking.fields where lookup is not null;
    set local role pipeline_owner;
    select masking.apply_fields();
    set local role none;
"""

# Masked long ago: tokens of the right size.
HISTORY = """
    insert into marts.user_logins (
        user_id, device_type, masked_ip, masked_device_id, app_version, create_date, ip_is_valid, message_id, sent_at
    )
    select 'u', 'android', 'v1:' || md5(body), 'v1:' || md5(message_id), '1', current_date, true, message_id, sent_at
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
        folders = ["--project-dir", str(self.project), "--profiles-dir", str(self.project / "profiles")]
        paths = ["--target-path", str(self.directory), "--log-path", str(self.directory)]
        started = time.perf_counter()
        run([dbt, *words, *folders, *paths], self.bench.environment | {"DO_NOT_TRACK": "1"})
        return time.perf_counter() - started

    def model_seconds(self) -> float:
        """How long the incremental models took in the last run, from the first one's start to the last one's end."""
        results = json.loads((self.directory / "run_results.json").read_text())["results"]
        times = [
            dt.datetime.fromisoformat(step[edge])
            for result in results
            if result["unique_id"] in INCREMENTAL
            for step in result["timing"]
            for edge in ("started_at", "completed_at")
        ]
        return (max(times) - min(times)).total_seconds()


@contextmanager
def prepared_dbt(bench: Bench) -> Iterator[Dbt]:
    """Dbt on the database of *bench*."""
    directory = Path(tempfile.mkdtemp(prefix="user-logins-bench-dbt-"))
    try:
        yield Dbt(bench, directory)
    finally:
        shutil.rmtree(directory)


def _empty(connection: psycopg.Connection) -> None:
    connection.execute("truncate marts.user_logins, marts.rejected_logins, staging.raw_logins, staging.unjudged")
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
def _service(bench: Bench, directory: Path) -> Iterator[psutil.Process]:
    """The service, which has parsed the project, and stands still until it is resumed."""
    environment = bench.environment | {"DBT_TARGET_PATH": str(directory / "service"), "DO_NOT_TRACK": "1"}
    service = psutil.Popen([sys.executable, "-m", "transform", "follow"], env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        if not wait_until((directory / "service" / "up_to_date").exists, RUN_SECONDS):
            raise NotCountedError("dbt's service has not begun")
        service.suspend()
        yield service
    finally:
        service.resume()
        service.terminate()
        service.wait()


def _land_a_million(connection: psycopg.Connection) -> None:
    _empty(connection)
    _land(connection, 1, MILLION)
    connection.execute("vacuum analyze staging.raw_logins, staging.unjudged")
    connection.execute("checkpoint")


def _first_run(connection: psycopg.Connection, dbt: Dbt) -> float:
    """Seconds of a `dbt run` over a million rows that were landed into empty tables."""
    _land_a_million(connection)
    seconds = dbt.run("run")
    _taken(connection, MILLION)
    return seconds


def _first_run_of_service(connection: psycopg.Connection, service: psutil.Process) -> float:
    """Seconds from the moment when dbt's service may look at the same million until all of them are in user_logins."""
    _land_a_million(connection)
    started = time.perf_counter()
    service.resume()
    done = wait_until(lambda: connection.execute("select from staging.unjudged limit 1").rowcount == 0, RUN_SECONDS)
    seconds = time.perf_counter() - started
    service.suspend()
    _taken(connection, MILLION if done else -1)
    return seconds


def _bare_insert(connection: psycopg.Connection) -> float:
    """Seconds of one statement that parses the rows that were landed, and inserts them."""
    connection.execute("create table marts.bare (like marts.user_logins including all)")
    connection.execute("truncate marts.user_logins")
    connection.execute("checkpoint")
    started = time.perf_counter()
    connection.execute(BARE.encode())
    seconds = time.perf_counter() - started
    connection.execute("drop table marts.bare")
    return seconds


@measure
def masking(bench: Bench) -> list[Result]:
    """A first run over a million rows, by dbt's service and by `dbt run`, and the least that one statement could do with the rows."""
    first, service_first, idle, bare = [], [], [], []
    with prepared_dbt(bench) as dbt, bench.connect() as connection:
        dbt.run("run")  # makes the views
        for _ in range(bench.runs):
            with _service(bench, dbt.directory) as service:
                service_first.append(_first_run_of_service(connection, service))
            first.append(_first_run(connection, dbt))
            idle.append(dbt.run("run"))
            bare.append(_bare_insert(connection))
    runs = list(zip(first, idle, bare, strict=True))
    return [
        Result(
            "a first run over 1,000,000 rows by dbt's service ÷ one statement that parses and inserts them without judging or masking",
            "ratio",
            [one / other for one, other in zip(service_first, bare, strict=True)],
            at_most=2.0,
        ),
        Result(
            "a first `dbt run` over 1,000,000 rows, less one that finds nothing to do, ÷ that statement",
            "ratio",
            [(one - nothing) / other for one, nothing, other in runs],
            at_most=2.0,
        ),
        Result("the same, dbt's start and the views included", "ratio", [one / other for one, _, other in runs]),
        Result("a first run over 1,000,000 rows by dbt's service", "s", service_first),
        Result("a first dbt run over 1,000,000 rows", "s", first),
        Result("a dbt run that finds nothing to do", "s", idle),
        Result("that statement", "s", bare),
    ]


@measure
def places(bench: Bench) -> list[Result]:
    """A first run that looks each address up in 500,000 ranges, and one of a policy and a model without such columns."""
    without: list[float] = []
    found: list[float] = []
    with prepared_dbt(bench) as dbt, bench.connect() as connection:
        connection.execute(RANGES.encode())
        other = replace(dbt, directory=dbt.directory / "other", project=Path(shutil.copytree(dbt.project, dbt.directory / "project")))
        for model in (other.project / "models" / "marts").glob("user_logins.*"):
            model.write_text(LOOKED_UP.sub("", model.read_text()))
        plain = Path(shutil.copytree(ROOT / "database", dbt.directory / "database"))
        with (plain / "6_fields.sql").open("a") as policy:
            policy.write(NO_LOOKUPS)
        for _ in range(bench.runs):
            migrate(connection, plain, {})
            without.append(_first_run(connection, other))
            migrate(connection, ROOT / "database", {})
            found.append(_first_run(connection, dbt))
    ratios = [one / other for one, other in zip(found, without, strict=True)]
    return [
        Result(
            "a first dbt run over 1,000,000 rows, looked up in 500,000 ranges ÷ one that looks nothing up", "ratio", ratios, at_most=1.1
        ),
        Result("the latter", "s", without),
    ]


@measure
def history(bench: Bench) -> list[Result]:
    """A run over 10,000 new rows with much and with little in the tables, and a run with nothing new."""
    seconds: dict[int, list[float]] = {}
    everything, scheduled = [], []
    with prepared_dbt(bench) as dbt, bench.connect() as connection:
        for rows in HISTORIES:
            _empty(connection)
            for first in range(1, rows, MILLION):
                _land(connection, first, min(rows, first + MILLION - 1))
            connection.execute(MONTHS)
            connection.execute(HISTORY)
            connection.execute("truncate staging.unjudged")
            connection.execute("vacuum analyze staging.raw_logins, staging.unjudged, marts.user_logins")
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
            everything.append(dbt.run("run") - start)
            scheduled.append(dbt.run("run", "--selector", "each_run") - start)
    little, much = (seconds[rows] for rows in HISTORIES)
    ratios = [large / small for large, small in zip(much, little, strict=True)]
    return [
        Result("10,000 new rows with 5,000,000 in the table ÷ with 100,000", "ratio", ratios, at_most=1.1),
        Result("10,000 new rows with 5,000,000 in the table", "s", much),
        Result("a dbt run with nothing new, over dbt's own start", "s", everything),
        Result("the same with --selector each_run, as the schedule has it", "s", scheduled),
    ]
