"""What the compose project does, tried from inside it: `docker compose up --exit-code-from test test`."""

import json
import os
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors

from sandbox import login_queue
from sandbox.sample_events import EVENTS, MALFORMED, sample_events

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

pytestmark = pytest.mark.skipif("IN_COMPOSE" not in os.environ, reason="runs inside the compose project: docker compose up test")

LOADER = "http://follow:9464"
PATIENCE_SECONDS = 120
OURS = "fault-test"  # whose logins the fault test sends, beside the sample's


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


def metric(name: str) -> float:
    with urllib.request.urlopen(f"{LOADER}/metrics", timeout=5) as reply:  # noqa: S310  http, in the compose network
        found = re.search(rf"^{name} (\S+)$", reply.read().decode(), re.MULTILINE)
    assert found, f"the loader has no metric {name}"
    return float(found[1])


def is_ready() -> bool:
    with urllib.request.urlopen(f"{LOADER}/ready", timeout=5) as reply:  # noqa: S310  as above
        return bool(reply.status == 200)


def queue_is_empty() -> bool:
    return login_queue.depth(os.environ["SQS_QUEUE_URL"]) == 0


@contextmanager
def sending() -> Iterator[list[str]]:
    """Send logins all the while, and tell the MessageIds of those that the queue took."""
    client: SQSClient = login_queue.client()
    sent: list[str] = []
    enough = threading.Event()

    def send() -> None:
        number = 0
        while not enough.is_set():
            entries = []
            for index in range(10):
                number += 1
                body = {"user_id": OURS, "app_version": "2.3.0", "device_type": "ios", "locale": None}
                body |= {"ip": f"2001:db8::{number:x}", "device_id": f"{number:09d}"}
                entries.append({"Id": str(index), "MessageBody": json.dumps(body)})
            reply = client.send_message_batch(QueueUrl=os.environ["SQS_QUEUE_URL"], Entries=entries)  # type: ignore[arg-type]
            sent.extend(entry["MessageId"] for entry in reply["Successful"])

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        enough.set()
        thread.join()


def landed(sent: list[str]) -> int:
    return int(value("select count(*) from staging.raw_logins where message_id = any(%s)", list(sent)))


def test_every_sample_event_is_masked_or_rejected() -> None:
    masked = value("select count(*) from marts.user_logins where user_id != %s", OURS)
    rejected = value("select count(*) from marts.rejected_logins")
    assert (masked, rejected) == (EVENTS - len(MALFORMED), len(MALFORMED))
    assert value("select count(*) from analytics.user_logins where user_id != %s", OURS, role="analyst") == masked


def test_no_address_and_no_device_of_the_sample_shows_to_an_analyst() -> None:
    logins = [json.loads(body) for body in sample_events() if body.startswith('{"user_id"') and body.endswith("}")]
    plain = {str(login[field]) for login in logins for field in ("ip", "device_id") if login.get(field)}
    with connect("analyst") as connection:
        seen = {
            str(cell)
            for view in ("user_logins", "shared_ips", "shared_devices", "daily_logins")
            for row in connection.execute(f"select * from analytics.{view}".encode())
            for cell in row
        }
    assert len(plain) > 100
    assert len(seen) > 100
    assert not plain & seen


@pytest.mark.parametrize(
    "attempt",
    [
        "select * from staging.raw_logins",
        "select * from marts.user_logins",
        "select * from marts.rejected_logins",
        "select * from masking.keys",
        "select masking.token('ip', '192.0.2.1')",
        "set role pipeline_owner",
        "create temporary table mine (ip text)",
        "create table public.mine (ip text)",
    ],
)
def test_an_analyst_is_refused(attempt: str) -> None:
    with connect("analyst") as connection:
        connection.execute("set default_transaction_read_only = off")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(attempt.encode())


def test_a_killed_loader_and_a_crashed_server_lose_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with sending() as sent:
        wait_until(lambda: landed(sent) >= 200, "200 landed")

        first_process = metric("process_start_time_seconds")
        wait_until(lambda: metric("loader_messages_in_flight") > 0, "messages in the loader's hands")
        with suppress(OSError):  # whoever answers ends with the loader
            urllib.request.urlopen("http://kill-loader:9465", data=b"", timeout=5).close()
        wait_until(lambda: metric("process_start_time_seconds") != first_process and is_ready(), "another loader process")
        before = len(sent)
        wait_until(lambda: landed(sent[before:]) >= 200, "200 landed by the new process")

        first_server = value("select pg_postmaster_start_time()")
        with connect("postgres") as superuser, pytest.raises(psycopg.OperationalError):
            # what `pg_ctl stop -m immediate` sends: no checkpoint, as after a crash; it does not come back from this by itself
            superuser.execute("copy (select) to program 'kill -QUIT 1; sleep 5'")
        wait_until(lambda: value("select pg_postmaster_start_time()") != first_server, "PostgreSQL started again")
        assert metric("loader_database_errors_total") > 0, "the loader noticed nothing, so the crash came at no time that matters"
        before = len(sent)
        wait_until(lambda: landed(sent[before:]) >= 200, "200 landed after the crash")

    wait_until(queue_is_empty, "an empty queue")
    with connect("transformer") as connection:
        counts = connection.execute(
            "select count(*), count(distinct message_id) from staging.raw_logins where message_id = any(%s)", [sent]
        ).fetchone()
    assert counts == (len(sent), len(set(sent)))
    wait_until(
        lambda: value("select count(*) from marts.user_logins where message_id = any(%s)", sent) == len(sent), "every one of them masked"
    )
    assert login_queue.depth(os.environ["SQS_QUEUE_URL"] + login_queue.DEAD_LETTER_SUFFIX) == 0
    with capsys.disabled():
        print(f"\n{len(sent)} messages sent, landed once and masked, across a killed loader and a crashed server")
