"""`drain` from the emulator's queue into a real database."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.stub import Stub
from sandbox import emulator
from sandbox.emulator import Emulator
from sandbox.processes import wait_until
from tests.integration.conftest import Environment, silent
from tests.support import Database, Queue, run, running

# A body may be anything: among others the pointer that SQS's extended client library sends for what it has put into S3.
BODIES = [
    '{"ip": "192.0.2.77", "device_id": "000-00-0001"}',
    "not JSON",
    " ",
    "\\x00",
    '{"name": "zoë 日本 🦊"}',
    "line\nbreak\ttab",
    "\\N",
    '"quoted", and, commas',
    '["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"bucket","s3Key":"00000000-0000-4000-8000-000000000000"}]',
]


def drain(environment: Environment, **variables: str) -> list[dict[str, Any]]:
    """Drain, and return the events that it printed; the last one is the summary."""
    done = run(["python", "-m", "loader", "drain"], environment | variables)
    assert done.returncode == os.EX_OK, done.stderr
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_message_lands_verbatim_with_its_id_and_time_and_no_line_shows_it(
    database: Database, queue: Queue, environment: Environment
) -> None:
    ids = queue.send(*BODIES)
    events = drain(environment)
    rows = database.rows("select message_id, body, sent_at between now() - interval '1 minute' and now() from staging.raw_logins")
    assert sorted(rows) == sorted((message_id, body, True) for message_id, body in zip(ids, BODIES, strict=True))
    assert queue.depth() == 0
    assert [event["event"] for event in events if event["level"] == "info"] == ["batch landed", "finished"]
    assert {"landed", "duplicates", "commit_seconds", "in_flight", "timestamp"} <= events[-2].keys()
    assert [events[-1][count] for count in ("received", "landed", "duplicate", "deleted")] == [len(BODIES), len(BODIES), 0, len(BODIES)]
    assert "192.0.2.77" not in str(events)
    assert "000-00" not in str(events)
    assert drain(environment)[-1]["landed"] == 0


def test_a_terminal_shows_a_bar_and_a_summary(queue: Queue, environment: Environment) -> None:
    queue.send("one", "two")
    command = ["script", "-qec", f"{sys.executable} -m loader drain", "/dev/null"]
    done = run(command, environment | {"TERM": "xterm-256color", "COLUMNS": "120"})
    assert done.returncode == 0
    assert "left on the queue" in done.stdout
    assert "2 landed, 0 had landed before, 2 deleted from the queue in" in done.stdout
    assert "{" not in done.stdout


def test_what_is_not_in_the_body_is_kept(database: Database, queue: Queue, environment: Environment) -> None:
    attributes = {"source": {"DataType": "String", "StringValue": "zoë 🦊"}, "raw": {"DataType": "Binary", "BinaryValue": b"\0\1"}}
    for client in ("own", "boto3"):
        queue.client.send_message(QueueUrl=queue.url, MessageBody=client, MessageAttributes=attributes)  # type: ignore[arg-type]  # these are such
        drain(environment, LOADER_SQS_CLIENT=client)
    landed = dict(database.rows("select body, attributes from staging.raw_logins"))
    kept = {"source": attributes["source"], "raw": {"DataType": "Binary", "BinaryValue": "AAE="}}
    assert landed["own"] == landed["boto3"] == {"ApproximateReceiveCount": 1, "MessageAttributes": kept}


def test_a_fifo_queue_is_drained_and_each_message_keeps_its_group_and_its_place(
    moto: Emulator, database: Database, environment: Environment
) -> None:
    client, sent = moto.client(), []
    url = client.create_queue(QueueName="logins.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    for number in range(40):
        group, key = f"g{number % 2}", str(number)
        reply = client.send_message(QueueUrl=url, MessageBody=key, MessageGroupId=group, MessageDeduplicationId=key)
        sent.append((key, group, reply["SequenceNumber"]))
    drain(environment, AWS_ENDPOINT_URL=moto.endpoint_url, SQS_QUEUE_URL=url)
    landed = database.rows("select body, attributes->>'MessageGroupId', attributes->>'SequenceNumber' from staging.raw_logins")
    assert sorted(landed) == sorted(sent)


def test_two_loaders_share_a_queue_and_what_comes_twice_lands_once(
    database: Database, environment: Environment, stub: Stub, tmp_path: Path
) -> None:
    stub.control(duplicate_rate=0.2, redeliver_rate=0.2, round_trip=0.1)
    stub.preload(1_000)
    settings = environment | stub.environment | {"LOADER_RECEIVERS": "4"}
    with running("loader drain", settings, tmp_path / "one") as one, running("loader drain", settings, tmp_path / "other") as other:
        assert one.wait() == other.wait() == os.EX_OK
    landed, duplicates = ([loader.events[-1][count] for loader in (one, other)] for count in ("landed", "duplicate"))
    assert sum(landed) == database.value("select count(*) from staging.raw_logins") == 1_000
    assert all(landed)
    assert sum(duplicates) == stub.stats()["handed out"] - 1_000 > stub.stats()["duplicated in a batch"] > 0
    assert stub.stats()["left"] == 0


def test_messages_that_another_consumer_gives_back_are_waited_for(sqs: Emulator, database: Database, environment: Environment) -> None:
    queue = Queue(sqs, emulator.create_queue(sqs, "held-by-another", visibility_timeout_seconds=2))
    queue.send("held for two seconds")
    assert queue.client.receive_message(QueueUrl=queue.url)["Messages"]
    drain(environment, SQS_QUEUE_URL=queue.url)
    assert database.rows("select body from staging.raw_logins") == [("held for two seconds",)]


def test_no_more_bytes_are_held_than_was_set(environment: Environment, stub: Stub, database: Database, tmp_path: Path) -> None:
    """One mebibyte is some 4,700 bodies of 225 bytes with what Python keeps around them. Nothing can land until they are held."""
    bounded = environment | stub.environment | {"LOADER_MAX_HELD_BYTES": str(1024**2)}
    with running("loader drain", bounded, tmp_path / "log") as loader, database.connect(autocommit=False) as blocking:
        assert wait_until(lambda: stub.stats().get("ReceiveMessage", 0) > 0, 30)
        blocking.execute("lock table staging.raw_logins in share mode")
        stub.preload(8_000)
        assert wait_until(lambda: stub.stats()["in flight"] > 2_000, 30)
        # A loader without the bound takes the rest in a part of this second.
        assert not wait_until(lambda: stub.stats()["in flight"] > 6_000, 1)
        blocking.rollback()
        assert loader.wait() == os.EX_OK
    assert stub.stats()["most in flight"] < 6_000
    assert database.value("select count(*) from staging.raw_logins") == 8_000


def test_a_body_that_was_damaged_on_its_way_is_not_landed(database: Database, environment: Environment, stub: Stub) -> None:
    stub.control(corrupt_rate=0.1)
    stub.preload(500)
    summary = drain(environment | stub.environment, LOADER_VISIBILITY_SECONDS="1")[-1]
    assert summary["damaged"] == stub.stats()["corrupted"] > 0
    assert database.rows("select count(*), count(*) filter (where body like '%andr0id%') from staging.raw_logins") == [(500, 0)]


def test_through_a_proxy_boto3_makes_the_calls(environment: Environment, stub: Stub, database: Database) -> None:
    """The stub takes a proxy's requests too: the host that they name does not exist, so nothing else could answer them."""
    stub.preload(300)
    proxied = {"AWS_ENDPOINT_URL": "http://sqs.example", "HTTP_PROXY": f"http://127.0.0.1:{stub.port}", "NO_PROXY": ""}
    drain(environment | stub.environment, **proxied)
    assert database.value("select count(*) from staging.raw_logins") == 300
    assert stub.stats()["left"] == 0


def test_a_latin1_client_encoding_or_session_changes_nothing(database: Database, queue: Queue, environment: Environment) -> None:
    with database.connect() as connection:
        connection.execute(f"alter role loader in database {database.name} set client_encoding = 'LATIN1'".encode())
    queue.send("日本")
    drain(environment, PGCLIENTENCODING="LATIN1")
    assert database.rows("select body from staging.raw_logins") == [("日本",)]


def test_a_silent_host_does_not_keep_the_next_one_from_being_reached(environment: Environment, queue: Queue) -> None:
    queue.send("one")
    with silent() as port:
        hosts = {"PGHOST": "127.0.0.1,127.0.0.1", "PGPORT": f"{port},{environment['PGPORT']}"}
        assert drain(environment, **hosts, LOADER_TIMEOUT_SECONDS="2")[-1]["landed"] == 1
