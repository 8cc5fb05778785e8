"""Send lines to the login queue, each verbatim as the body of one message."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.progress import Progress

from sandbox import login_queue
from sandbox.errors import SandboxError
from sandbox.sample_events import EVENTS, sample_events

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

# SQS's quotas (its developer guide, "Message quotas")
MAX_BATCH_MESSAGES = 10
MAX_BATCH_BYTES = 1_048_576
ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.2
LINES_NAMED = 10
# SQS's errors for a line that it will never accept (API reference of SendMessage and SendMessageBatch)
CONTENT_ERRORS = frozenset({"InvalidMessageContents", "InvalidParameterValue", "AWS.SimpleQueueService.BatchRequestTooLong"})


@dataclass(frozen=True)
class Line:
    """One line that is to become a message; *number* counts from 1."""

    number: int
    body: str


@dataclass(frozen=True)
class Seeded:
    """How many lines were sent, how many were empty and so skipped, and the numbers of those that the queue refused."""

    sent: int
    empty: int
    refused: tuple[int, ...]


def seed(path: Path | None, queue_url: str, console: Console) -> Seeded:
    r"""Send each line of *path*, or the sample events, to the queue; only `\n` separates lines, and empty ones are skipped.

    The file is read twice. The first pass checks that it is UTF-8, so that a wrong file sends nothing.

    Raises:
        SandboxError: the file cannot be read, or the queue does not answer.
    """
    total = EVENTS if path is None else _count_lines(path)
    numbered = enumerate(sample_events() if path is None else _read_lines(path), start=1)
    sent = 0
    refused: list[int] = []
    try:
        client = login_queue.client()
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task("sending", total=total)
            for batch in batches(Line(number, body) for number, body in numbered if body):
                failed = send(client, queue_url, batch)
                sent += len(batch) - len(failed)
                refused += failed
                progress.update(task, completed=batch[-1].number)
    except (BotoCoreError, ClientError, ValueError) as error:
        unreachable = login_queue.unreachable(queue_url, error)
        raise SandboxError(f"{unreachable} ({sent} messages were sent)", unreachable.exit_code) from error
    return Seeded(sent, total - sent - len(refused), tuple(refused))


def batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Group *lines* so that each group fits one SendMessageBatch: ten messages, 1 MiB. A longer line is a group by itself."""
    batch: list[Line] = []
    size = 0
    for line in lines:
        length = len(line.body.encode())
        if batch and (len(batch) == MAX_BATCH_MESSAGES or size + length > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += length
    if batch:
        yield batch


def send(client: "SQSClient", queue_url: str, batch: list[Line], pause: Callable[[float], None] = time.sleep) -> list[int]:
    """Send *batch*, retry failed lines up to three times, and return the numbers of the lines that were refused."""
    waiting = {str(line.number): line for line in batch}
    refused: list[int] = []
    for attempt in range(ATTEMPTS):
        if attempt:
            pause(FIRST_PAUSE_SECONDS * 2**attempt)
        entries = [{"Id": number, "MessageBody": line.body} for number, line in waiting.items()]
        try:
            reply = client.send_message_batch(QueueUrl=queue_url, Entries=entries)  # type: ignore[arg-type]  # a TypedDict, written plainly
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in CONTENT_ERRORS:
                raise
            # one line's content fails the whole call, so find out which
            if len(waiting) == 1:
                return [*refused, *(line.number for line in waiting.values())]
            return [*refused, *(number for line in waiting.values() for number in send(client, queue_url, [line], pause))]
        failed = {entry["Id"]: entry["SenderFault"] for entry in reply.get("Failed", [])}
        refused += [waiting[number].number for number, is_ours in failed.items() if is_ours]
        waiting = {number: waiting[number] for number, is_ours in failed.items() if not is_ours}
        if not waiting:
            break
    return sorted([*refused, *(line.number for line in waiting.values())])


def _read_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for line in file:
            yield line.removesuffix(b"\n").decode()


def _count_lines(path: Path) -> int:
    """How many lines *path* has; SandboxError if it cannot be read as text."""
    number = 0
    try:
        for number, _ in enumerate(_read_lines(path), start=1):  # noqa: B007  the last number is the count
            pass
    except OSError as error:
        raise SandboxError(
            f"{path} cannot be read: {error.strerror}; set FILE to a file with one message per line", os.EX_NOINPUT
        ) from error
    except UnicodeDecodeError as error:
        raise SandboxError(
            f"{path} line {number + 1} is not UTF-8, so nothing was sent; set FILE to a text file with one message per line", os.EX_DATAERR
        ) from error
    return number
