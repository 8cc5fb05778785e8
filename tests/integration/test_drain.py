"""`drain` from the emulator's queue into a real database."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stub import Stub
from sandbox import emulator
from sandbox.emulator import Emulator
from tests.integration.conftest import Environment, silent
from tests.support import Database, Queue, run

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
    """Whatever encoding its client or its role asks for."""
    with database.connect() as connection:
        connection.execute(f"alter role loader in database {database.name} set client_encoding = 'LATIN1'".encode())
    ids = queue.send(*BODIES)
    events = drain(environment, PGCLIENTENCODING="LATIN1")
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
    assert done.stdout.count("2 landed") == 2
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


@pytest.mark.slow  # the command takes seconds to start
def test_what_the_aws_command_sends_lands_with_its_attributes(database: Database, queue: Queue, environment: Environment) -> None:
    attributes = {"source": {"DataType": "String", "StringValue": "zoë 🦊"}, "tries": {"DataType": "Number", "StringValue": "3"}}
    words = ["--queue-url", queue.url, "--message-body", BODIES[4], "--message-attributes", json.dumps(attributes)]
    sent = run(
        [str(Path(sys.executable).with_name("aws")), "sqs", "send-message", "--endpoint-url", queue.emulator.endpoint_url, *words],
        environment,
    )
    assert sent.returncode == 0, sent.stderr
    drain(environment)
    (landed,) = database.rows("select message_id, body, attributes from staging.raw_logins")
    assert landed == (json.loads(sent.stdout)["MessageId"], BODIES[4], {"ApproximateReceiveCount": 1, "MessageAttributes": attributes})


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


def test_messages_that_another_consumer_gives_back_are_waited_for(sqs: Emulator, database: Database, environment: Environment) -> None:
    queue = Queue(sqs, emulator.create_queue(sqs, "held-by-another", visibility_timeout_seconds=2))
    queue.send("held for two seconds")
    assert queue.client.receive_message(QueueUrl=queue.url)["Messages"]
    drain(environment, SQS_QUEUE_URL=queue.url)
    assert database.rows("select body from staging.raw_logins") == [("held for two seconds",)]


def test_a_body_that_was_damaged_on_its_way_is_not_landed(database: Database, environment: Environment, stub: Stub) -> None:
    stub.control(corrupt_rate=0.1)
    stub.preload(500)
    summary = drain(environment | stub.environment, LOADER_VISIBILITY_SECONDS="1")[-1]
    assert summary["damaged"] == stub.stats()["corrupted"] > 0
    assert database.rows("select count(*), count(*) filter (where body like '%andr0id%') from staging.raw_logins") == [(500, 0)]


def test_a_silent_host_does_not_keep_the_next_one_from_being_reached(environment: Environment, queue: Queue) -> None:
    queue.send("one")
    with silent() as port:
        hosts = {"PGHOST": "127.0.0.1,127.0.0.1", "PGPORT": f"{port},{environment['PGPORT']}"}
        assert drain(environment, **hosts, LOADER_TIMEOUT_SECONDS="2")[-1]["landed"] == 1
