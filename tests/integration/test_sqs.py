"""The sandbox's emulator of SQS does as another one does, and what it alone does."""

import json
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from sandbox.emulator import Emulator
from sandbox.processes import wait_until
from tests.support import Queue

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

ALL: dict[str, Any] = {"MaxNumberOfMessages": 10, "AttributeNames": ["All"], "MessageAttributeNames": ["All"]}
DEAD_LETTERS = "-dlq"


@pytest.fixture(params=["ours", "moto"])
def client(request: pytest.FixtureRequest, sqs: Emulator) -> "SQSClient":
    """A client of our emulator and of another one, for which the same must hold."""
    emulator = sqs if request.param == "ours" else request.getfixturevalue("moto")
    found: SQSClient = emulator.client()
    return found


@pytest.fixture
def url(client: "SQSClient") -> Iterator[str]:
    """A queue that gives up a message after two receives."""
    dead = client.create_queue(QueueName="both-dlq")["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2})
    made = client.create_queue(QueueName="both", Attributes={"RedrivePolicy": redrive, "VisibilityTimeout": "30"})["QueueUrl"]
    yield made
    for each in (made, dead):
        client.delete_queue(QueueUrl=each)


def counts(client: "SQSClient", url: str) -> tuple[int, int, int]:
    """How many messages are visible, in flight and delayed."""
    attributes: Any = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    visible, in_flight, delayed = (int(attributes[f"ApproximateNumberOfMessages{which}"]) for which in ("", "NotVisible", "Delayed"))
    return visible, in_flight, delayed


def receive(client: "SQSClient", url: str, **more: Any) -> list[Any]:
    return list(client.receive_message(QueueUrl=url, **ALL | more).get("Messages", []))


def refusal(call: Any, **parameters: Any) -> str:
    """The code with which *call* is refused."""
    with pytest.raises(ClientError) as refused:
        call(**parameters)
    return str(refused.value.response["Error"]["Code"])


def test_a_message_arrives_as_it_was_sent_and_is_hidden_until_it_is_given_back_or_deleted(client: "SQSClient", url: str) -> None:
    attributes: Any = {"source": {"DataType": "String", "StringValue": "zoë"}, "raw": {"DataType": "Binary", "BinaryValue": b"\0\1"}}
    before = int(time.time() * 1000)
    sent = client.send_message(QueueUrl=url, MessageBody='{"zoë": "🦊"}', MessageAttributes=attributes)
    (message,) = receive(client, url)
    assert (message["MessageId"], message["Body"], message["MD5OfBody"]) == (sent["MessageId"], '{"zoë": "🦊"}', sent["MD5OfMessageBody"])
    assert message["MessageAttributes"] == attributes
    assert before - 1 <= int(message["Attributes"]["SentTimestamp"]) <= int(time.time() * 1000) + 1
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"

    assert (receive(client, url), counts(client, url)) == ([], (0, 1, 0))
    client.change_message_visibility(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0)
    (again,) = receive(client, url)
    assert (again["MessageId"], again["Attributes"]["ApproximateReceiveCount"]) == (sent["MessageId"], "2")
    client.delete_message(QueueUrl=url, ReceiptHandle=again["ReceiptHandle"])
    assert counts(client, url) == (0, 0, 0)


def test_a_hidden_or_delayed_message_comes_by_itself_and_a_waiting_receive_gets_it(client: "SQSClient", url: str) -> None:
    client.send_message(QueueUrl=url, MessageBody="hidden")
    assert receive(client, url, VisibilityTimeout=1)
    assert [message["Body"] for message in receive(client, url, WaitTimeSeconds=10)] == ["hidden"]
    client.send_message(QueueUrl=url, MessageBody="delayed", DelaySeconds=1)
    assert (receive(client, url), counts(client, url)) == ([], (0, 1, 1))
    assert [message["Body"] for message in receive(client, url, WaitTimeSeconds=10)] == ["delayed"]


def test_one_received_too_often_becomes_a_dead_letter(client: "SQSClient", url: str) -> None:
    sent = client.send_message(QueueUrl=url, MessageBody="never deleted")
    assert [len(receive(client, url, VisibilityTimeout=0)) for _ in range(3)] == [1, 1, 0]
    (dead,) = receive(client, url + DEAD_LETTERS)
    assert (dead["MessageId"], dead["Body"]) == (sent["MessageId"], "never deleted")


def test_a_batch_does_what_it_can_and_says_the_rest(client: "SQSClient", url: str) -> None:
    entries: list[Any] = [{"Id": str(number), "MessageBody": f"body {number}"} for number in range(10)]
    assert {each["Id"] for each in client.send_message_batch(QueueUrl=url, Entries=entries)["Successful"]} == set("0123456789")
    received = receive(client, url)
    assert [message["Body"] for message in received] == [f"body {number}" for number in range(10)]
    handles: list[Any] = [{"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]} for number, message in enumerate(received)]
    hidden = [entry | {"VisibilityTimeout": 60} for entry in handles[:3]]
    assert len(client.change_message_visibility_batch(QueueUrl=url, Entries=hidden)["Successful"]) == 3
    reply = client.delete_message_batch(QueueUrl=url, Entries=[*handles[:5], {"Id": "odd", "ReceiptHandle": "invented"}])
    assert (len(reply["Successful"]), [each["Code"] for each in reply["Failed"]]) == (5, ["ReceiptHandleIsInvalid"])
    assert counts(client, url) == (0, 5, 0)
    client.purge_queue(QueueUrl=url)
    assert counts(client, url) == (0, 0, 0)


def test_what_sqs_will_not_take_is_refused(client: "SQSClient", url: str) -> None:
    one = {"Id": "a", "MessageBody": "x"}
    batches = {
        "EmptyBatchRequest": [],
        "BatchEntryIdsNotDistinct": [one] * 2,
        "TooManyEntriesInBatchRequest": [one | {"Id": str(number)} for number in range(11)],
        "BatchRequestTooLong": [{"Id": str(number), "MessageBody": "x" * 600_000} for number in range(2)],
    }
    for code, entries in batches.items():
        assert refusal(client.send_message_batch, QueueUrl=url, Entries=entries).rpartition(".")[2] == code
    assert counts(client, url) == (0, 0, 0)
    assert refusal(client.receive_message, QueueUrl=f"{url}-not") == "AWS.SimpleQueueService.NonExistentQueue"


# ── ours alone ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_has_no_fifo_queues(queue: Queue) -> None:
    fifo = {"QueueName": "logins.fifo", "Attributes": {"FifoQueue": "true"}}
    assert refusal(queue.client.create_queue, **fifo) == "InvalidAttributeName"


def test_an_earlier_receipt_handle_deletes_nothing_and_what_is_deleted_is_not_left_in_the_file(queue: Queue) -> None:
    """As AWS has it; moto deletes by any handle."""
    queue.send("192.0.2.77")
    (first,) = receive(queue.client, queue.url, VisibilityTimeout=0)
    (second,) = receive(queue.client, queue.url)
    queue.client.delete_message(QueueUrl=queue.url, ReceiptHandle=first["ReceiptHandle"])
    assert queue.depth() == 1
    assert b"192.0.2.77" in queue.emulator.file.read_bytes()
    queue.client.delete_message(QueueUrl=queue.url, ReceiptHandle=second["ReceiptHandle"])
    assert queue.depth() == 0
    assert b"192.0.2.77" not in queue.emulator.file.read_bytes()
    assert queue.emulator.file.with_name("emulator.sqlite-journal").read_bytes() == b""


def test_a_message_does_not_go_to_a_client_that_was_killed_while_it_waited(queue: Queue) -> None:
    body = json.dumps({"QueueUrl": queue.url, "WaitTimeSeconds": 20}).encode()
    head = f"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: AmazonSQS.ReceiveMessage\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", queue.emulator.port)) as killed:
        killed.sendall(head.encode() + body)
        process = queue.emulator.process
        assert process is not None
        assert wait_until(lambda: killed.getsockname() in [each.raddr for each in process.net_connections()], 30)
    queue.send("for the living")
    assert [message["Body"] for message in receive(queue.client, queue.url, WaitTimeSeconds=5)] == ["for the living"]
