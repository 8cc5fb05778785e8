"""The SQS emulator as a background process on 127.0.0.1, and a login queue with its dead-letter queue on it."""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import psutil

from sandbox import processes, sqs
from sandbox.errors import SandboxError
from sandbox.processes import HOST

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

START_TIMEOUT_SECONDS = 60
MAX_RECEIVE_COUNT = 5
DEAD_LETTER_SUFFIX = "-dlq"


@dataclass(frozen=True)
class Emulator:
    """One emulator: its files under *directory*, its port on 127.0.0.1. It accepts any credentials."""

    directory: Path
    port: int

    @property
    def endpoint_url(self) -> str:
        """For AWS_ENDPOINT_URL."""
        return f"http://{HOST}:{self.port}"

    @property
    def file(self) -> Path:
        """The queues, which outlive the emulator; beside it are its pid and its log, which has no message."""
        return self.directory / "emulator.sqlite"

    @property
    def process(self) -> psutil.Process | None:
        """The emulator's process, if it runs."""
        return processes.find(self.file.with_suffix(".pid"), self.file)

    def queue_url(self, name: str) -> str:
        """The URL that the queue called *name* has."""
        return f"{self.endpoint_url}/{sqs.ACCOUNT}/{name}"

    def client(self) -> "SQSClient":
        """A boto3 client of this emulator, whatever the environment says."""
        session = boto3.Session("sandbox", "sandbox", region_name=sqs.REGION)  # any key will do
        return session.client("sqs", endpoint_url=self.endpoint_url)


def start(emulator: Emulator) -> bool:
    """Start *emulator*, with the messages that it had, and wait until it answers. False if it was running.

    Raises SandboxError when the port is taken or the emulator ends at once.
    """
    if emulator.process is not None and not processes.port_is_free(emulator.port):
        return False
    stop(emulator)
    if not processes.port_is_free(emulator.port):
        raise SandboxError(
            f"port {emulator.port} is taken, so the SQS emulator cannot start; "
            "stop what listens there or set AWS_ENDPOINT_URL to one with a free port"
        )
    # by its path, because no environment says where the package is
    command, log = [sys.executable, "-P", sqs.__file__, HOST, str(emulator.port), str(emulator.file)], emulator.file.with_suffix(".log")
    process = processes.start(command, log)
    emulator.file.with_suffix(".pid").write_text(str(process.pid))
    processes.wait_until(lambda: not processes.port_is_free(emulator.port) or not processes.runs(process), START_TIMEOUT_SECONDS)
    if not processes.runs(process):
        raise SandboxError(f"the SQS emulator did not start; see {log}")
    return True


def stop(emulator: Emulator) -> bool:
    """Stop the emulator; its queues stay. False if it was not running."""
    process = emulator.process
    if process is not None:
        processes.stop(process)
    return process is not None


def create_queue(emulator: Emulator, name: str, visibility_timeout_seconds: int = 30) -> str:
    """Create the queue *name* and its dead-letter queue `NAME-dlq` if they are missing, and return its URL.

    A message received five times and never deleted moves to the dead-letter queue.
    """
    client = emulator.client()
    client.create_queue(QueueName=name + DEAD_LETTER_SUFFIX)
    redrive = {"deadLetterTargetArn": f"{sqs.ARN}{name}{DEAD_LETTER_SUFFIX}", "maxReceiveCount": MAX_RECEIVE_COUNT}
    attributes = {"VisibilityTimeout": str(visibility_timeout_seconds), "RedrivePolicy": json.dumps(redrive)}
    return client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]  # type: ignore[arg-type]  # these are such


@contextlib.contextmanager
def throwaway(directory: Path) -> Iterator[Emulator]:
    """An emulator on a free port under *directory*, stopped at the end."""
    emulator = Emulator(directory, processes.free_port())
    try:
        start(emulator)
        yield emulator
    finally:
        stop(emulator)
