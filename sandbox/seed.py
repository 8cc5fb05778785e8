"""Send lines to the login queue, each verbatim as the body of one message."""

import datetime as dt
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sandbox.errors import SandboxError
from sandbox.processes import HOST
from sandbox.sample_events import aged_sample_events
from sandbox.sqs import MAX_BYTES, MAX_ENTRIES

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

TIMEOUTS = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})


class Line(NamedTuple):
    """One line that is to become a message; *number* counts from 1. It was sent at *sent_at*, or, if None, is sent now."""

    number: int
    body: str
    sent_at: dt.datetime | None = None


class Seeded(NamedTuple):
    """How many lines were sent, how many were empty and so skipped, and the numbers of those that the queue refused."""

    sent: int
    empty: int
    refused: tuple[int, ...]


def seed(path: Path | None, queue_url: str) -> Seeded:
    r"""Send each line of *path*, or the sample events, to the queue; only `\n` separates lines, and empty ones are skipped.

    A file is read whole before anything is sent, so that a wrong one sends nothing.

    Raises:
        SandboxError: the file cannot be read, or the queue does not answer.
    """
    lines = sample() if path is None else [Line(number, body) for number, body in enumerate(read_lines(path), start=1)]
    full = [line for line in lines if line.body]
    refused, sent = list[int](), 0
    try:
        queue = client()
        for batch in batches(full):
            failed = send(queue, queue_url, batch)
            refused += failed
            sent += len(batch) - len(failed)
    except (BotoCoreError, ClientError, ValueError) as error:
        raise _unreachable(queue_url, error, f" ({sent} messages were sent)") from error
    return Seeded(sent, len(lines) - len(full), tuple(refused))


def sample() -> list[Line]:
    """The sample events; only the sandbox's own emulator lets a sender say that they were sent in the past four weeks."""
    is_ours = urlsplit(os.environ.get("AWS_ENDPOINT_URL", "")).hostname in (HOST, "localhost")
    now = dt.datetime.now(dt.UTC) if is_ours else None
    return [Line(number, body, now and now - age) for number, (age, body) in enumerate(aged_sample_events(), start=1)]


def batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Group *lines* so that each group fits one SendMessageBatch: ten messages, 1 MiB. A longer line is a group by itself."""
    batch, size = list[Line](), 0
    for line in lines:
        length = len(line.body.encode())
        if batch and (len(batch) == MAX_ENTRIES or size + length > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += length
    if batch:
        yield batch


def client() -> "SQSClient":
    """A client by boto3's own variables, and AWS_REGION, which boto3 alone among Amazon's SDKs does not read."""
    return boto3.client("sqs", region_name=os.environ.get("AWS_REGION"), config=TIMEOUTS)


def depth(queue_url: str) -> int:
    """How many messages the queue has, in flight and delayed ones included. Approximate on SQS, exact on the emulator."""
    try:
        attributes = client().get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])["Attributes"]
    except (BotoCoreError, ClientError, ValueError) as error:
        raise _unreachable(queue_url, error) from error
    return sum(int(value) for name, value in attributes.items() if name.startswith("ApproximateNumberOfMessages"))


def send(client: "SQSClient", queue_url: str, batch: list[Line]) -> list[int]:
    """Send *batch* and return the numbers of the lines that the queue refused."""
    if len(batch) == 1 and len(batch[0].body.encode()) > MAX_BYTES:
        return [batch[0].number]
    reply = client.send_message_batch(QueueUrl=queue_url, Entries=[_entry(line) for line in batch])
    return [int(failed["Id"]) for failed in reply.get("Failed", [])]


def read_lines(path: Path) -> list[str]:
    """The lines of *path*; SandboxError if it cannot be read as text."""
    advice = "set FILE to a text file with one message per line"
    try:
        lines = (content := path.read_bytes()).decode().split("\n")
    except OSError as error:
        raise SandboxError(f"{path} cannot be read: {error.strerror}; {advice}", os.EX_NOINPUT) from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SandboxError(f"{path} line {line} is not UTF-8, so nothing was sent; {advice}", os.EX_DATAERR) from None
    return lines if lines[-1] else lines[:-1]


def _entry(line: Line) -> Any:
    sent_at = {"DataType": "Number", "StringValue": str(int(line.sent_at.timestamp() * 1000))} if line.sent_at else None
    return {"Id": str(line.number), "MessageBody": line.body} | ({"MessageSystemAttributes": {"SentTimestamp": sent_at}} if sent_at else {})


def _unreachable(queue_url: str, error: Exception, done: str = "") -> SandboxError:
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "an error")
        return SandboxError(f"SQS refused {queue_url}: {code}; make up creates the queue, or correct SQS_QUEUE_URL{done}")
    return SandboxError(f"{' '.join(str(error).split())}; run make up, or correct AWS_ENDPOINT_URL and SQS_QUEUE_URL{done}")
