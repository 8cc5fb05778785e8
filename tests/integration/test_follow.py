"""`follow` as a service."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from benchmarks.stub import Stub
from sandbox.processes import free_port, wait_until
from tests.support import ROOT, Database, Queue

Environment = dict[str, str]


@contextlib.contextmanager
def following(environment: Environment) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `follow` and the address of its HTTP endpoint."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "loader", "follow"],
        cwd=ROOT,
        env=environment | {"LOADER_HTTP_PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        assert wait_until(lambda: get(f"{address}/ready")[0] == 200, 20)
        yield process, address
    finally:
        process.kill()
        process.communicate()


def get(url: str) -> tuple[int, str]:
    """The status and the body of *url*; 0 when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310  # http, on this machine
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def metric(address: str, name: str) -> float:
    """The value of the metric *name*, with its labels if it has some."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", get(f"{address}/metrics")[1], re.MULTILINE)
    return float(found[1]) if found else -1


def test_messages_land_as_they_come_until_it_is_told_to_stop(database: Database, queue: Queue, environment: Environment) -> None:
    with following(environment) as (process, _):
        for count in (1, 2):
            queue.send("hello")
            assert wait_until(lambda: database.value("select count(*) from staging.raw_logins") == count and queue.depth() == 0, 20)  # noqa: B023
        process.terminate()
        assert process.wait(20) == os.EX_OK


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(environment: Environment, number: signal.Signals) -> None:
    with following(environment) as (process, _):
        process.send_signal(number)
        assert process.wait(20) == os.EX_OK


def test_its_metrics_count_what_it_did(database: Database, environment: Environment, stub: Stub) -> None:
    stub.control(duplicate_rate=0.3)
    with following(environment | stub.environment) as (_, address):
        stub.preload(1_000)
        assert wait_until(lambda: metric(address, "loader_messages_in_flight") == 0 and stub.stats()["left"] == 0, 20)
        received = stub.stats()["handed out"]
        assert metric(address, "loader_messages_received_total") == received
        assert metric(address, "loader_messages_landed_total") == 1_000 == database.value("select count(*) from staging.raw_logins")
        assert metric(address, "loader_messages_duplicate_total") == received - 1_000 > 0
        assert metric(address, "loader_messages_deleted_total") == received
        assert metric(address, "loader_batch_messages_sum") == received
        assert metric(address, "loader_commit_seconds_count") == metric(address, "loader_batch_messages_count") > 0
        assert metric(address, "loader_oldest_message_age_seconds") == 0
        assert metric(address, 'loader_queue_messages{state="visible"}') >= 0
        assert metric(address, "process_resident_memory_bytes") > 0


def test_it_is_live_but_not_ready_while_the_database_is_away(database: Database, environment: Environment, stub: Stub) -> None:
    with following(environment | stub.environment) as (_, address):
        assert get(f"{address}/live") == (200, "200 OK\n")
        with database.server.connect() as connection:
            connection.execute(f"alter database {database.name} allow_connections false".encode())
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'loader' and datname = %s", [database.name]
            )
        stub.preload(10)
        assert wait_until(lambda: get(f"{address}/ready")[0] == 503, 20)
        assert get(f"{address}/live")[0] == 200
        with database.server.connect() as connection:
            connection.execute(f"alter database {database.name} allow_connections true".encode())
        assert wait_until(lambda: get(f"{address}/ready")[0] == 200, 20)
        assert wait_until(lambda: stub.stats()["left"] == 0, 20)


def test_an_unknown_path_is_not_found(environment: Environment) -> None:
    with following(environment) as (_, address):
        assert get(f"{address}/other")[0] == 404


def test_while_idle_it_waits_without_asking_again_and_again(environment: Environment, stub: Stub) -> None:
    """Each receiver's one request is held back by SQS, for 20 s, and a receiver has one request at a time."""
    with following(environment | stub.environment | {"LOADER_RECEIVERS": "4"}) as (_, _):
        assert wait_until(lambda: stub.stats()["polls"] == 4, 20)
        assert stub.stats()["ReceiveMessage"] == stub.stats()["long polls of 20 s"] == 4
