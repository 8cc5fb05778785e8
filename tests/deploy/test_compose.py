"""What the compose project does, tried from inside it: `docker compose up --exit-code-from test test`."""

import itertools
import json
import os
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from sandbox import seed
from sandbox.emulator import DEAD_LETTER_SUFFIX
from sandbox.sample_events import EVENTS, MALFORMED, sample_events

pytestmark = pytest.mark.skipif("IN_COMPOSE" not in os.environ, reason="runs inside the compose project: docker compose up test")

PATIENCE_SECONDS = 120
OURS = "fault-test"  # whose logins the fault tests send, beside the sample's


def connect(role: str) -> psycopg.Connection[Any]:
    variable = "ADMIN_PASSWORD" if role == "postgres" else f"{role.upper()}_PASSWORD"
    return psycopg.connect(user=role, password=os.environ[variable], autocommit=True, connect_timeout=5)


def value(query: str, *parameters: object, role: str = "transformer") -> Any:
    with connect(role) as connection:
        row = connection.execute(query.encode(), parameters).fetchone()
        assert row is not None
        return row[0]


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Ask until it is so; PostgreSQL and the loader may be away meanwhile, for that is what is tested."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            if true():
                return
        except (psycopg.OperationalError, OSError):
            pass
        time.sleep(0.05)
    pytest.fail(f"after {PATIENCE_SECONDS} s: not {what}")


@dataclass(frozen=True)
class Loader:
    """A loader that follows a queue: the names of its service, of the one that kills it, and of the queue."""

    service: str
    killer: str
    queue: str

    @property
    def queue_url(self) -> str:
        return os.environ["SQS_QUEUE_URL"].rpartition("/")[0] + f"/{self.queue}"

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{self.service}:9464/metrics", timeout=5) as reply:
            found = re.search(rf"^{name} (\S+)$", reply.read().decode(), re.MULTILINE)
        assert found, f"the loader has no metric {name}"
        return float(found[1])

    def is_ready(self) -> bool:
        with urllib.request.urlopen(f"http://{self.service}:9464/ready", timeout=5) as reply:
            return bool(reply.status == 200)

    def kill(self) -> None:
        with suppress(OSError):  # whoever would answer ends with the loader
            urllib.request.urlopen(f"http://{self.killer}:9465", data=b"", timeout=5).close()

    def has_nothing_left(self) -> bool:
        return seed.depth(self.queue_url) == 0 and self.metric("loader_messages_in_flight") == 0


FOLLOW = Loader("follow", "kill-loader", "login-queue")
CARELESS = Loader("careless", "kill-careless", "careless-queue")


@contextmanager
def sending(queue_url: str) -> Iterator[list[str]]:
    """Send logins all the while, and tell the MessageIds of those that the queue took."""
    client = seed.client()
    sent: list[str] = []
    enough = threading.Event()

    def send() -> None:
        login = {"user_id": OURS, "app_version": "2.3.0", "device_type": "ios", "locale": None}
        numbers = itertools.count()
        # 400 a second, which the emulator can serve to a slow loader too
        while not enough.wait(0.025):
            bodies = [login | {"ip": f"2001:db8::{number:x}", "device_id": f"{number:09}"} for number in itertools.islice(numbers, 10)]
            entries = [{"Id": str(place), "MessageBody": json.dumps(body)} for place, body in enumerate(bodies)]
            reply = client.send_message_batch(QueueUrl=queue_url, Entries=entries)  # type: ignore[arg-type]
            sent.extend(entry["MessageId"] for entry in reply["Successful"])

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        enough.set()
        thread.join()


# the loader's sessions that wait for a lock
WAITING = "from pg_stat_activity where usename = 'loader' and wait_event_type = 'Lock'"


def landed(sent: list[str]) -> int:
    return int(value("select count(*) from staging.raw_logins where message_id = any(%s)", list(sent)))


def test_every_sample_event_is_masked_or_rejected_and_an_analyst_sees_no_plain_value() -> None:
    masked = value("select count(*) from marts.user_logins where user_id != %s", OURS)
    assert (masked, value("select count(*) from marts.rejected_logins")) == (EVENTS - len(MALFORMED), len(MALFORMED))
    assert value("select count(*) from analytics.user_logins where user_id != %s", OURS, role="analyst") == masked
    logins = [json.loads(body) for body in sample_events() if body not in MALFORMED.values()]
    plain = {login[field] for login in logins for field in ("ip", "device_id")}
    with connect("analyst") as connection:
        views = connection.execute("select table_name from information_schema.views where table_schema = 'analytics'").fetchall()
        seen = {
            cell
            for (view,) in views
            for row in connection.execute(f"select * from analytics.{view}".encode())
            for cell in row
            if isinstance(cell, str)
        }
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select * from staging.raw_logins")
    assert len(plain) > 100 < len(seen)
    assert not plain & seen


@contextmanager
def landing_waits() -> Iterator[psycopg.Connection[Any]]:
    """Hold the loader up in the transaction that lands: it has received these messages and has not committed them."""
    with connect("postgres") as observer, connect("postgres") as superuser, superuser.transaction():
        superuser.execute("lock table staging.raw_logins in exclusive mode")
        wait_until(lambda: observer.execute(f"select pid {WAITING}".encode()).fetchone() is not None, "a landing that waits")
        yield observer


def kill_and_crash(loader: Loader) -> list[str]:
    """Kill *loader* while it lands, and crash PostgreSQL while its next process does.

    Returns the ids of what was sent all the while, when the loader has taken everything.
    """
    with sending(loader.queue_url) as sent:
        wait_until(lambda: landed(sent) >= 200, "200 landed")

        first_process = loader.metric("process_start_time_seconds")
        with landing_waits() as observer:
            loader.kill()
            # the server has the statement already, and would go on with it alone
            observer.execute(f"select pg_terminate_backend(pid, 5000) {WAITING}".encode())
        wait_until(lambda: loader.metric("process_start_time_seconds") != first_process and loader.is_ready(), "another loader process")
        before = landed(sent)
        wait_until(lambda: landed(sent) >= before + 200, "200 landed by the new process")

        first_server = value("select pg_postmaster_start_time()")
        with pytest.raises(psycopg.OperationalError), landing_waits() as observer:
            # what `pg_ctl stop -m immediate` sends: no checkpoint, as after a crash; it does not come back from this by itself
            observer.execute("copy (select) to program 'kill -QUIT 1; sleep 5'")
        wait_until(lambda: value("select pg_postmaster_start_time()") != first_server, "PostgreSQL started again")
        wait_until(lambda: loader.metric("loader_database_errors_total") > 0, "the loader's landing failed")
        after_the_crash = landed(sent)
        wait_until(lambda: landed(sent) >= after_the_crash + 200, "200 landed after the crash")

    wait_until(loader.has_nothing_left, "an empty queue")
    return sent


def test_a_killed_loader_and_a_crashed_server_lose_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    sent = kill_and_crash(FOLLOW)
    assert value("select count(*) from staging.raw_logins where message_id = any(%s)", sent) == len(set(sent)) == len(sent)
    wait_until(lambda: value("select count(*) from marts.user_logins where message_id = any(%s)", sent) == len(sent), "all masked")
    assert seed.depth(FOLLOW.queue_url + DEAD_LETTER_SUFFIX) == 0
    with capsys.disabled():
        print(f"\n{len(sent)} messages sent, landed once and masked, across a killed loader and a crashed server")


def test_control_a_loader_that_deletes_before_it_commits_loses_messages(capsys: pytest.CaptureFixture[str]) -> None:
    sent = kill_and_crash(CARELESS)
    lost = len(sent) - landed(sent)
    assert lost > 0
    with capsys.disabled():
        print(f"\n{lost} of {len(sent)} messages lost by the careless loader, across the same")
