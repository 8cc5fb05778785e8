"""`follow` as a service."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from benchmarks.stub import Stub
from sandbox.processes import free_port, wait_until
from tests.support import ROOT, Database, Queue

pytestmark = pytest.mark.slow

Environment = dict[str, str]


# A minute of two seconds: what is asked every 20 s is asked every half second.
IN_SHORT = """
import sys
from loader import pipeline, report
report.READY_SECONDS, pipeline.WAIT_SECONDS, pipeline.IDLE_COMMIT_SECONDS = 2, (1, 1), 0.5
from loader.__main__ import main
sys.argv = ["loader", "follow"]
main()
"""


@contextlib.contextmanager
def following(environment: Environment, *, in_short: bool = False) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `follow` and the address of its HTTP endpoint."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, *(["-c", IN_SHORT] if in_short else ["-m", "loader", "follow"])],
        cwd=ROOT,
        env={"LOADER_HTTP_PORT": str(port)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        address = f"http://127.0.0.1:{port}" if "LOADER_HTTP_HOST" not in environment else f"http://localhost:{port}"
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_messages_land_as_they_come_until_it_is_told_to_stop(
    database: Database, queue: Queue, environment: Environment, number: signal.Signals
) -> None:
    with following(environment) as (process, _):
        for count in (1, 2):
            queue.send("hello")
            assert wait_until(lambda: database.value("select count(*) from staging.raw_logins") == count and queue.depth() == 0, 20)  # noqa: B023
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
    """Although it is idle: nothing has come that it could not land."""
    with following(environment | stub.environment, in_short=True) as (_, address):
        assert get(f"{address}/live") == (200, "200 OK\n")
        assert get(f"{address}/other")[0] == 404
        with database.server.connect() as connection:
            connection.execute(f"alter database {database.name} allow_connections false".encode())
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'loader' and datname = %s", [database.name]
            )
        assert wait_until(lambda: get(f"{address}/ready")[0] == 503, 20)
        assert get(f"{address}/live")[0] == 200
        stub.preload(10)
        with database.server.connect() as connection:
            connection.execute(f"alter database {database.name} allow_connections true".encode())
        assert wait_until(lambda: get(f"{address}/ready")[0] == 200, 20)
        assert wait_until(lambda: stub.stats()["left"] == 0, 20)


def test_it_is_live_but_not_ready_while_every_receive_is_refused(environment: Environment, stub: Stub) -> None:
    """For whatever reason; it goes on by itself when the reason has gone."""
    with following(environment | stub.environment, in_short=True) as (_, address):
        stub.preload(1)  # it has worked before
        assert wait_until(lambda: stub.stats()["left"] == 0, 20)
        stub.control(denied=["ReceiveMessage"], denied_code="SomethingNew")
        assert wait_until(lambda: get(f"{address}/ready")[0] == 503, 20)
        assert get(f"{address}/live")[0] == 200
        assert metric(address, "loader_sqs_errors_total") > 0
        stub.control(denied=[])
        assert wait_until(lambda: get(f"{address}/ready")[0] == 200, 20)


def test_silent_connections_to_the_health_port_do_not_stand_in_the_way(environment: Environment) -> None:
    with following(environment) as (_, address), contextlib.ExitStack() as stack:
        port = int(address.rpartition(":")[2])
        for _ in range(2):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        with urllib.request.urlopen(f"{address}/live", timeout=1) as reply:  # noqa: S310  # http, on this machine; a kubelet waits for a second
            assert reply.status == 200


def test_it_may_listen_on_every_address_of_both_families(environment: Environment) -> None:
    with following(environment | {"LOADER_HTTP_HOST": "::"}) as (_, address):
        port = address.rpartition(":")[2]
        assert get(f"http://[::1]:{port}/live")[0] == get(f"http://127.0.0.1:{port}/live")[0] == 200


def test_while_idle_one_scout_asks_and_when_work_comes_all_do(environment: Environment, stub: Stub) -> None:
    """Its request is held back by SQS for 20 s: with the count of the queue once a minute some 180,000 requests a month."""
    with following(environment | stub.environment | {"LOADER_RECEIVERS": "4"}) as (_, address):
        assert wait_until(lambda: stub.stats()["polls"] == 1, 20)
        assert stub.stats()["ReceiveMessage"] == stub.stats()["long polls of 20 s"] == 1
        stub.control(round_trip=0.2)
        stub.preload(1_000)
        assert wait_until(lambda: metric(address, "loader_messages_deleted_total") == 1_000, 20)
        assert stub.stats()["most receives at once"] == 4
        assert wait_until(lambda: stub.stats()["polls"] > 0, 20)
