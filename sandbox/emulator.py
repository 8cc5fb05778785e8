"""The SQS emulator (ministack), on 127.0.0.1 alone, with a login queue and its dead-letter queue."""

import contextlib
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import boto3

from sandbox import processes
from sandbox.errors import SandboxError
from sandbox.login_queue import DEAD_LETTER_SUFFIX
from sandbox.processes import HOST

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

REGION = "us-east-1"
ACCOUNT = "000000000000"
START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 20
VISIBILITY_TIMEOUT_SECONDS = 30
MAX_RECEIVE_COUNT = 5
RETENTION_SECONDS = 14 * 24 * 60 * 60  # the longest that SQS allows


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
    def log(self) -> Path:
        """The emulator's log: warnings, no message."""
        return self.directory / "emulator.log"

    @property
    def record(self) -> Path:
        """Pid, start time and command of the emulator's process."""
        return self.directory / "emulator.json"

    @property
    def state(self) -> Path:
        """Where the emulator keeps its queues while it is stopped."""
        return self.directory / "emulator"

    def queue_url(self, name: str) -> str:
        """The URL that the queue called *name* has."""
        return f"{self.endpoint_url}/{ACCOUNT}/{name}"

    def client(self) -> "SQSClient":
        """A boto3 client of this emulator, whatever the environment says."""
        return boto3.client(
            "sqs",
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id="sandbox",
            aws_secret_access_key="sandbox",  # noqa: S106  the emulator accepts any
        )


def start(emulator: Emulator) -> bool:
    """Start *emulator*, with the messages that it had when it stopped, and wait until it answers. False if it was running.

    Raises SandboxError when the port is taken or the emulator ends at once.
    """
    running = processes.find(emulator.record)
    if running is not None:
        if _answers(emulator):
            return False
        stop(emulator)
    if not processes.port_is_free(emulator.port):
        raise SandboxError(
            f"port {emulator.port} is taken, so the SQS emulator cannot start; "
            "stop what listens there or set AWS_ENDPOINT_URL to one with a free port"
        )
    emulator.state.mkdir(mode=0o700, exist_ok=True)
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "BIND_HOST": HOST,
        "MINISTACK_HOST": HOST,
        "GATEWAY_PORT": str(emulator.port),
        "MINISTACK_REGION": REGION,
        "MINISTACK_ACCOUNT_ID": ACCOUNT,
        "SERVICES": "sqs",
        "SFTP_ENABLED": "0",  # it would listen on more ports
        "IOT_MTLS_ENABLED": "0",
        "DOCKER_HOST": "unix:///nonexistent",  # or it would remove containers that another ministack made
        "PERSIST_STATE": "1",
        "STATE_DIR": str(emulator.state),
        "TMPDIR": str(emulator.state),  # its own pid file
        "LOG_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "ministack"]
    process = processes.start("the SQS emulator", command, environment, emulator.record, emulator.log)
    if not processes.wait_until(lambda: _answers(emulator) or not processes.runs(process), START_TIMEOUT_SECONDS) or not _answers(emulator):
        stop(emulator)
        raise SandboxError(f"the SQS emulator did not start; see {emulator.log}")
    # The emulator has read them. If they stayed, deleted messages would come back after a crash, and they are personal data.
    for saved in emulator.state.glob("*.json"):
        saved.unlink()
    return True


def stop(emulator: Emulator) -> bool:
    """Stop the emulator, which saves its queues first. False if it was not running."""
    process = processes.find(emulator.record)
    if process is not None:
        processes.stop(process, signal.SIGTERM, STOP_TIMEOUT_SECONDS)
    emulator.record.unlink(missing_ok=True)
    return process is not None


def create_queue(emulator: Emulator, name: str, visibility_timeout_seconds: int = VISIBILITY_TIMEOUT_SECONDS) -> str:
    """Create the queue *name* and its dead-letter queue `NAME-dlq` if they are missing, and return its URL.

    A message received five times and never deleted moves to the dead-letter queue.
    """
    client = emulator.client()
    dead_letters = client.create_queue(QueueName=name + DEAD_LETTER_SUFFIX, Attributes={"MessageRetentionPeriod": str(RETENTION_SECONDS)})
    arn = client.get_queue_attributes(QueueUrl=dead_letters["QueueUrl"], AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    queue = client.create_queue(
        QueueName=name,
        Attributes={
            "MessageRetentionPeriod": str(RETENTION_SECONDS),
            "VisibilityTimeout": str(visibility_timeout_seconds),
            "RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVE_COUNT}),
        },
    )
    return queue["QueueUrl"]


@contextlib.contextmanager
def throwaway(directory: Path) -> Iterator[Emulator]:
    """An emulator on a free port under *directory*, stopped at the end."""
    emulator = Emulator(directory, processes.free_port())
    try:
        start(emulator)
        yield emulator
    finally:
        stop(emulator)


def _answers(emulator: Emulator) -> bool:
    try:
        with urllib.request.urlopen(f"{emulator.endpoint_url}/_ministack/ready", timeout=5) as reply:  # noqa: S310  http, on this machine
            return bool(reply.status == HTTPStatus.OK)
    except OSError:
        return False
