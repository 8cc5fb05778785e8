"""Send lines to the login queue, each verbatim as the body of one message."""

import datetime as dt
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from sandbox import login_queue
from sandbox.errors import SandboxError
from sandbox.sample_events import aged_sample_events
from sandbox.sqs import MAX_BYTES, MAX_ENTRIES

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


@dataclass(frozen=True)
class Line:
    """One line that is to become a message; *number* counts from 1. It was sent at *sent_at*, or, if None, is sent now."""

    number: int
    body: str
    sent_at: dt.datetime | None = None


@dataclass(frozen=True)
class Seeded:
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
    refused: list[int] = []
    sent = 0
    try:
        client = login_queue.client()
        for batch in batches(full):
            failed = send(client, queue_url, batch)
            refused += failed
            sent += len(batch) - len(failed)
    except (BotoCoreError, ClientError, ValueError) as error:
        unreachable = login_queue.unreachable(queue_url, error)
        raise SandboxError(f"{unreachable} ({sent} messages were sent)", unreachable.exit_code) from error
    return Seeded(sent, len(lines) - len(full), tuple(refused))


def sample() -> list[Line]:
    """The sample events; only the sandbox's own emulator lets a sender say that they were sent in the past four weeks."""
    now = dt.datetime.now(dt.UTC) if login_queue.is_sandbox(os.environ) else None
    return [Line(number, body, now and now - age) for number, (age, body) in enumerate(aged_sample_events(), start=1)]


def batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Group *lines* so that each group fits one SendMessageBatch: ten messages, 1 MiB. A longer line is a group by itself."""
    batch: list[Line] = []
    size = 0
    for line in lines:
        length = len(line.body.encode())
        if batch and (len(batch) == MAX_ENTRIES or size + length > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += length
    if batch:
        yield batch


def send(client: "SQSClient", queue_url: str, batch: list[Line]) -> list[int]:
    """Send *batch* and return the numbers of the lines that the queue refused."""
    if len(batch) == 1 and len(batch[0].body.encode()) > MAX_BYTES:
        return [batch[0].number]
    reply = client.send_message_batch(QueueUrl=queue_url, Entries=[_entry(line) for line in batch])
    return [int(failed["Id"]) for failed in reply.get("Failed", [])]


def read_lines(path: Path) -> list[str]:
    """The lines of *path*; SandboxError if it cannot be read as text."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise SandboxError(
            f"{path} cannot be read: {error.strerror}; set FILE to a file with one message per line", os.EX_NOINPUT
        ) from error
    found = []
    for number, line in enumerate(lines if lines[-1] else lines[:-1], start=1):
        try:
            found.append(line.decode())
        except UnicodeDecodeError as error:
            raise SandboxError(
                f"{path} line {number} is not UTF-8, so nothing was sent; set FILE to a text file with one message per line", os.EX_DATAERR
            ) from error
    return found


def _entry(line: Line) -> Any:
    sent_at = {"DataType": "Number", "StringValue": str(int(line.sent_at.timestamp() * 1000))} if line.sent_at else None
    return {"Id": str(line.number), "MessageBody": line.body} | ({"MessageSystemAttributes": {"SentTimestamp": sent_at}} if sent_at else {})
