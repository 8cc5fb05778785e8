"""`follow` as a service."""

import contextlib
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from benchmarks.stub import Stub
from loader import pipeline, report
from sandbox.processes import free_port, wait_until
from tests import forks
from tests.integration.conftest import Environment
from tests.support import Database, Queue, Running, running

pytestmark = pytest.mark.slow


def in_short(module: str, words: list[str], cwd: Path) -> None:
    """A minute has two seconds: what is asked every 20 s is asked every half second."""
    report.READY_SECONDS, pipeline.WAIT_SECONDS = 2, (1, 1)
    pipeline.IDLE_COMMIT_SECONDS = 0.5  # type: ignore[assignment]  # half a second will do
    forks.command(module, words, cwd)


@contextlib.contextmanager
def following(environment: Environment, log: Path, *, is_short: bool = False) -> Iterator[tuple[Running, str]]:
    """A running `follow` and the address of its HTTP endpoint."""
    address = f"http://localhost:{(port := free_port())}"
    start = in_short if is_short else forks.command
    with running("loader follow", environment | {"LOADER_HTTP_PORT": str(port)}, log, start=start) as loader:
        assert wait_until(lambda: get(f"{address}/ready") == 200, 20)
        yield loader, address


def get(url: str) -> int:
    """The status of *url*; 0 when nobody answers within a second, for which a kubelet waits."""
    try:
        return urllib3.request("GET", url, timeout=1, retries=False).status
    except urllib3.exceptions.HTTPError:
        return 0


def metric(address: str, name: str) -> float:
    """The value of the metric *name*, with its labels if it has some."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", urllib3.request("GET", f"{address}/metrics").data.decode(), re.MULTILINE)
    return float(found[1]) if found else -1


def test_one_scout_asks_while_idle_and_all_do_when_work_comes_which_the_metrics_count(
    environment: Environment, stub: Stub, tmp_path: Path
) -> None:
    """SQS holds the scout's request back for 20 s: some 130,000 requests a month."""
    stub.control(duplicate_rate=0.3)
    with following(environment | stub.environment | {"LOADER_RECEIVERS": "4"}, tmp_path / "log") as (loader, address):
        assert wait_until(lambda: stub.stats()["polls"] == 1, 20)
        assert stub.stats()["ReceiveMessage"] == stub.stats()["long polls of 20 s"] == 1
        stub.control(round_trip=0.2)
        stub.preload(1_000)
        assert wait_until(lambda: metric(address, "loader_messages_in_flight") == 0 and stub.stats()["left"] == 0, 20)
        assert stub.stats()["most receives at once"] == 4
        assert wait_until(lambda: stub.stats()["polls"] > 0, 20)
        received = stub.stats()["handed out"]
        counts = {
            "messages_received_total": received,
            "messages_landed_total": 1_000,
            "messages_duplicate_total": received - 1_000,
            "messages_deleted_total": received,
            "batch_messages_sum": received,
            "oldest_message_age_seconds": 0,
            "durability_unsafe": 1,  # as tests run it
        }
        assert {name: metric(address, f"loader_{name}") for name in counts} == counts
        assert metric(address, "loader_commit_seconds_count") == metric(address, "loader_batch_messages_count") > 0
        assert metric(address, "process_resident_memory_bytes") > 0
        assert loader.end(signal.SIGINT) == os.EX_OK


def test_it_is_live_but_not_ready_while_the_database_or_the_queue_refuses_it(
    database: Database, environment: Environment, stub: Stub, tmp_path: Path
) -> None:
    """For whatever reason, and although it is idle; it goes on by itself when the reason has gone."""
    admit = f"alter database {database.name} allow_connections"
    with following(environment | stub.environment, tmp_path / "log", is_short=True) as (_, address), database.server.connect() as admin:
        admin.execute(f"{admit} false".encode())
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'loader' and datname = %s", [database.name])
        assert wait_until(lambda: get(f"{address}/ready") == 503, 20)
        assert (get(f"{address}/live"), get(f"{address}/other")) == (200, 404)
        stub.preload(10)
        admin.execute(f"{admit} true".encode())
        assert wait_until(lambda: get(f"{address}/ready") == 200 and stub.stats()["left"] == 0, 20)

        stub.control(denied=["ReceiveMessage"], denied_code="SomethingNew")
        assert wait_until(lambda: get(f"{address}/ready") == 503, 20)
        assert get(f"{address}/live") == 200
        assert metric(address, "loader_sqs_errors_total") > 0
        stub.control(denied=[])
        assert wait_until(lambda: get(f"{address}/ready") == 200, 20)


def test_its_health_port_answers_both_families_of_addresses_beside_silent_connections(
    database: Database, queue: Queue, environment: Environment, tmp_path: Path
) -> None:
    with following(environment | {"LOADER_HTTP_HOST": "::"}, tmp_path / "log") as (loader, address), contextlib.ExitStack() as stack:
        port = int(address.rpartition(":")[2])
        for host in ("127.0.0.1", "::1"):
            stack.enter_context(socket.create_connection((host, port)))
        assert get(f"http://127.0.0.1:{port}/live") == get(f"http://[::1]:{port}/live") == 200
        queue.send("hello")
        assert wait_until(lambda: queue.depth() == 0, 20)
        assert database.rows("select body from staging.raw_logins") == [("hello",)]
        assert loader.end() == os.EX_OK
