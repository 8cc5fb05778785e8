"""`drain` from the emulator's queue into a real database."""

import json
import os
import socket
import subprocess
import sys
from typing import Any

from benchmarks.stub import Stub
from sandbox import emulator
from sandbox.emulator import Emulator
from sandbox.processes import wait_until
from tests.support import ROOT, Database, Queue, run

Environment = dict[str, str]

ODD_BODIES = [
    '{"ip": "192.0.2.1", "device_id": "1"}',
    "not JSON",
    "",
    " ",
    "\\x00",
    '{"name": "zoë 日本 🦊"}',
    "line\nbreak\ttab",
    "\\N",
    '"quoted", and, commas',
]


def drain(environment: Environment, **variables: str) -> dict[str, Any]:
    """Drain, and return the summary."""
    done = run(["python", "-m", "loader", "drain"], environment | variables)
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def test_every_message_lands_verbatim_with_its_id_and_time(database: Database, queue: Queue, environment: Environment) -> None:
    bodies = [body for body in ODD_BODIES if body]
    ids = queue.send(*bodies)
    summary = drain(environment)
    rows = database.rows("select message_id, body, sent_at between now() - interval '1 minute' and now() from staging.raw_logins")
    assert sorted(rows) == sorted((message_id, body, True) for message_id, body in zip(ids, bodies, strict=True))
    assert queue.depth() == 0
    assert (summary["received"], summary["landed"], summary["duplicate"], summary["deleted"]) == (len(bodies), len(bodies), 0, len(bodies))


def test_a_message_delivered_twice_lands_once(database: Database, environment: Environment, stub: Stub) -> None:
    stub.control(duplicate_rate=0.5)
    stub.preload(500)
    summary = drain(environment | stub.environment)
    assert stub.stats()["duplicated in a batch"] > 0
    assert database.value("select count(*) from staging.raw_logins") == 500
    assert summary["duplicate"] == summary["received"] - 500 > 0
    assert stub.stats()["left"] == 0


def test_a_second_drain_finds_nothing_to_do(database: Database, queue: Queue, environment: Environment) -> None:
    queue.send("once")
    assert drain(environment)["landed"] == 1
    assert drain(environment)["landed"] == 0
    assert database.value("select count(*) from staging.raw_logins") == 1


def test_a_partition_that_was_dropped_is_made_again(database: Database, queue: Queue, environment: Environment) -> None:
    queue.send("before")
    drain(environment)
    with database.connect() as connection:
        for (partition,) in connection.execute(
            "select inhrelid::regclass::text from pg_inherits where inhparent = 'staging.raw_logins'::regclass"
        ):
            connection.execute(f"drop table {partition}".encode())
    queue.send("after")
    drain(environment)
    assert database.rows("select body from staging.raw_logins") == [("after",)]


def test_two_loaders_share_a_queue(database: Database, environment: Environment, stub: Stub) -> None:
    stub.control(duplicate_rate=0.2, redeliver_rate=0.2, round_trip=0.1)
    stub.preload(1_000)
    command = [sys.executable, "-m", "loader", "drain"]
    both = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment | stub.environment | {"LOADER_RECEIVERS": "4"}, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    landed = [json.loads(process.communicate(timeout=60)[0].splitlines()[-1])["landed"] for process in both]
    assert sum(landed) == database.value("select count(*) from staging.raw_logins") == 1_000
    assert all(landed)
    assert stub.stats()["left"] == 0


def test_messages_that_another_consumer_gives_back_are_waited_for(sqs: Emulator, database: Database, environment: Environment) -> None:
    url = emulator.create_queue(sqs, "held-by-another", visibility_timeout_seconds=2)
    queue = Queue(sqs, url)
    queue.send("held for two seconds")
    assert queue.client.receive_message(QueueUrl=url)["Messages"]
    assert drain(environment, SQS_QUEUE_URL=url)["landed"] == 1
    assert database.rows("select body from staging.raw_logins") == [("held for two seconds",)]


def test_no_more_bytes_are_held_than_was_set(environment: Environment, stub: Stub, database: Database) -> None:
    """One mebibyte is some 4,700 bodies of 225 bytes with what Python keeps around them. Nothing can land until they are held."""
    command = [sys.executable, "-m", "loader", "drain"]
    bounded = environment | stub.environment | {"LOADER_MAX_HELD_BYTES": str(1024**2)}
    with (
        subprocess.Popen(command, cwd=ROOT, env=bounded, stdout=subprocess.DEVNULL) as loader,
        database.connect(autocommit=False) as blocking,
    ):
        assert wait_until(lambda: stub.stats().get("ReceiveMessage", 0) > 0, 30)
        blocking.execute("lock table staging.raw_logins in share mode")
        stub.preload(8_000)
        assert wait_until(lambda: stub.stats()["in flight"] > 2_000, 30)
        # A loader without the bound takes the rest in a part of this second.
        assert not wait_until(lambda: stub.stats()["in flight"] > 6_000, 1)
        blocking.rollback()
        assert loader.wait(60) == os.EX_OK
    assert stub.stats()["most in flight"] < 6_000
    assert database.value("select count(*) from staging.raw_logins") == 8_000


def test_each_batch_is_a_line_of_json_without_personal_values(queue: Queue, environment: Environment) -> None:
    queue.send('{"ip": "192.0.2.77", "device_id": "000-00-0001"}')
    done = run(["python", "-m", "loader", "drain"], environment)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events if event["level"] == "info"] == ["batch landed", "finished"]
    assert {"landed", "duplicates", "commit_seconds", "in_flight", "timestamp"} <= events[-2].keys()
    assert "192.0.2.77" not in done.stdout + done.stderr
    assert "000-00" not in done.stdout + done.stderr


def test_a_terminal_shows_a_bar_and_a_summary(queue: Queue, environment: Environment) -> None:
    queue.send("one", "two")
    done = run(
        ["script", "-qec", f"{sys.executable} -m loader drain", "/dev/null"], environment | {"TERM": "xterm-256color", "COLUMNS": "120"}
    )
    assert done.returncode == 0
    assert "left on the queue" in done.stdout
    assert "2 landed, 0 had landed before, 2 deleted from the queue in" in done.stdout
    assert "{" not in done.stdout


def test_a_body_that_was_damaged_on_its_way_is_not_landed(database: Database, environment: Environment, stub: Stub) -> None:
    stub.control(corrupt_rate=0.1)
    stub.preload(500)
    summary = drain(environment | stub.environment, LOADER_VISIBILITY_SECONDS="1")
    assert summary["damaged"] == stub.stats()["corrupted"]
    assert stub.stats()["corrupted"] > 0
    assert database.value("select count(*) from staging.raw_logins") == 500
    assert database.value("select count(*) from staging.raw_logins where body like '%andr0id%'") == 0


def test_through_a_proxy_boto3_makes_the_calls(environment: Environment, stub: Stub, database: Database) -> None:
    """The stub takes a proxy's requests too: the host that they name does not exist, so nothing else could answer them."""
    stub.preload(300)
    proxied = stub.environment | {"AWS_ENDPOINT_URL": "http://sqs.example", "HTTP_PROXY": f"http://127.0.0.1:{stub.port}", "NO_PROXY": ""}
    drain(environment | proxied)
    assert database.value("select count(*) from staging.raw_logins") == 300
    assert stub.stats()["left"] == 0


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
    client = moto.client()
    url = client.create_queue(QueueName="logins.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    sent = []
    for number in range(40):
        group, key = f"g{number % 2}", str(number)
        reply = client.send_message(QueueUrl=url, MessageBody=key, MessageGroupId=group, MessageDeduplicationId=key)
        sent.append((key, group, reply["SequenceNumber"]))
    drain(environment, AWS_ENDPOINT_URL=moto.endpoint_url, SQS_QUEUE_URL=url)
    landed = database.rows("select body, attributes->>'MessageGroupId', attributes->>'SequenceNumber' from staging.raw_logins")
    assert sorted(landed) == sorted(sent)


def test_a_pointer_to_a_large_message_lands_like_any_body(database: Database, queue: Queue, environment: Environment) -> None:
    pointer = (
        '["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"bucket","s3Key":"00000000-0000-4000-8000-000000000000"}]'
    )
    queue.send(pointer)
    drain(environment)
    assert database.rows("select body from staging.raw_logins") == [(pointer,)]


def test_a_latin1_client_encoding_or_session_changes_nothing(database: Database, queue: Queue, environment: Environment) -> None:
    with database.connect() as connection:
        connection.execute("alter role loader set client_encoding = 'LATIN1'")
    try:
        queue.send("日本")
        assert drain(environment, PGCLIENTENCODING="LATIN1")["landed"] == 1
    finally:
        with database.connect() as connection:
            connection.execute("alter role loader reset client_encoding")
    assert database.rows("select body from staging.raw_logins") == [("日本",)]


def test_a_silent_host_does_not_keep_the_next_one_from_being_reached(environment: Environment, queue: Queue) -> None:
    queue.send("one")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hosts = {"PGHOST": "127.0.0.1,127.0.0.1", "PGPORT": f"{silent.getsockname()[1]},{environment['PGPORT']}"}
        assert drain(environment | hosts, LOADER_TIMEOUT_SECONDS="2")["landed"] == 1


def test_a_queues_visibility_time_out_that_is_lowered_while_it_runs_changes_nothing(
    database: Database, environment: Environment, stub: Stub
) -> None:
    """It goes with every receive; so a slow landing costs no message one of its deliveries."""
    stub.control(visibility=1)
    stub.preload(50)
    command = [sys.executable, "-m", "loader", "drain"]
    with (
        database.connect(autocommit=False) as blocking,
        subprocess.Popen(command, cwd=ROOT, env=environment | stub.environment, stdout=subprocess.DEVNULL) as loader,
    ):
        assert wait_until(lambda: stub.stats().get("ReceiveMessage", 0) > 0, 30)
        blocking.execute("lock table staging.raw_logins in share mode")
        assert wait_until(lambda: stub.stats()["handed out"] == 50, 30)
        assert not wait_until(lambda: stub.stats().get("expired", 0) > 0, 2)
        blocking.rollback()
        assert loader.wait(60) == os.EX_OK
    assert stub.stats()["handed out"] == 50
