"""What a message takes up: bytes on disk and in the write-ahead log, and the connections of the loader and of dbt."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from benchmarks import stub as stubs
from benchmarks.harness import ROOT, Bench, NotCountedError, Result, measure, run

MESSAGES = 200_000
MILLION = 1_000_000
MEGABYTE = 1_000_000
SAMPLE_SECONDS = 0.02
PARTITIONS = "select sum(pg_total_relation_size(inhrelid)) from pg_inherits where inhparent = '{}'::regclass"
STAGING = PARTITIONS.format("staging.raw_logins")
MART = PARTITIONS.format("marts.user_logins")
BODIES = "select avg(octet_length(body)) from staging.raw_logins"
SESSIONS = "select count(*) from pg_stat_activity where datname = current_database() and usename = %s"


def _value(connection: psycopg.Connection, query: str, *parameters: object) -> float:
    row = connection.execute(query.encode(), parameters).fetchone()
    return float(row[0]) if row else 0.0


@contextmanager
def _most_sessions(bench: Bench, role: str) -> Iterator[list[float]]:
    """Meanwhile, how many sessions *role* has: one sample after the other."""
    samples: list[float] = []
    enough = threading.Event()

    def sample() -> None:
        with bench.connect() as connection:
            while not enough.wait(SAMPLE_SECONDS):
                samples.append(_value(connection, SESSIONS, role))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        enough.set()
        thread.join()


def _wal_bytes(connection: psycopg.Connection) -> float:
    return _value(connection, "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")


@measure
def sizing(bench: Bench) -> list[Result]:
    """Load and mask 200,000 messages, by the loader and by `dbt run`, into empty tables."""
    kinds = ("body", "staging", "mart", "landing", "masking", "loader", "dbt")
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(bench.runs):
        with bench.connect() as connection, stubs.running() as stub, tempfile.TemporaryDirectory() as directory:
            dbt = {
                "DBT_PROJECT_DIR": str(ROOT / "dbt_project"),
                "DBT_PROFILES_DIR": str(ROOT / "dbt_project" / "profiles"),
                "DBT_TARGET_PATH": directory,
                "DBT_LOG_PATH": directory,
            }
            connection.execute("truncate staging.raw_logins, staging.unjudged, marts.user_logins, marts.rejected_logins")
            connection.execute("checkpoint")  # the first change of a page after it goes into the log as a whole

            stub.preload(MESSAGES)
            before = _wal_bytes(connection)
            with _most_sessions(bench, "loader") as loader_sessions:
                run(["python", "-m", "loader", "drain"], bench.environment | stub.environment)
            found["landing"].append(_wal_bytes(connection) - before)

            before = _wal_bytes(connection)
            with _most_sessions(bench, "transformer") as dbt_sessions:
                run(["python", "-m", "dbt.cli.main", "run"], bench.environment | dbt)
            found["masking"].append(_wal_bytes(connection) - before)

            masked = _value(connection, "select count(*) from marts.user_logins")
            if masked != MESSAGES:
                raise NotCountedError(f"{MESSAGES} messages were sent, and user_logins has {masked:.0f}")
            found["loader"].append(max(loader_sessions))
            found["dbt"].append(max(dbt_sessions))
            for kind, query in (("body", BODIES), ("staging", STAGING), ("mart", MART)):
                found[kind].append(_value(connection, query))
    return [
        Result("body of a message", "bytes", found["body"]),
        Result("staging.raw_logins with its key", "bytes a message", [size / MESSAGES for size in found["staging"]]),
        Result("marts.user_logins with its keys", "bytes a login", [size / MESSAGES for size in found["mart"]]),
        Result("write-ahead log of landing", "MB a million", [size / MESSAGES * MILLION / MEGABYTE for size in found["landing"]]),
        Result("write-ahead log of masking", "MB a million", [size / MESSAGES * MILLION / MEGABYTE for size in found["masking"]]),
        Result("connections of a loader", "sessions", found["loader"]),
        Result("connections of dbt run", "sessions", found["dbt"]),
    ]
