"""The login queue that the environment names, on the emulator or elsewhere."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sandbox.errors import SandboxError
from sandbox.settings import OURS, required

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

DEAD_LETTER_SUFFIX = "-dlq"


def is_sandbox(environ: Mapping[str, str]) -> bool:
    """Whether the queue is on the sandbox's emulator."""
    return urlsplit(environ.get("AWS_ENDPOINT_URL", "")).hostname in OURS


def url(environ: Mapping[str, str]) -> str:
    """SQS_QUEUE_URL; SandboxError, in the loader's words, if it is missing or no URL."""
    found = required(environ, "SQS_QUEUE_URL")
    if not found.startswith(("http://", "https://")):
        raise SandboxError(f"SQS_QUEUE_URL is {found!r}: string should match pattern '^https?://'; see .env.example", os.EX_CONFIG)
    return found


def client() -> "SQSClient":
    """A client by boto3's own variables, and AWS_REGION, which boto3 alone among Amazon's SDKs does not read."""
    timeouts = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})
    return boto3.client("sqs", region_name=os.environ.get("AWS_REGION"), config=timeouts)


def depth(queue_url: str) -> int:
    """How many messages the queue has, in flight and delayed ones included. Approximate on SQS, exact on the emulator."""
    try:
        attributes = client().get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])["Attributes"]
    except (BotoCoreError, ClientError, ValueError) as error:
        raise unreachable(queue_url, error) from error
    return sum(int(value) for name, value in attributes.items() if name.startswith("ApproximateNumberOfMessages"))


def unreachable(queue_url: str, error: Exception) -> SandboxError:
    """The error to raise when the queue at *queue_url* cannot be used."""
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "an error")
        return SandboxError(f"SQS refused {queue_url}: {code}; make up creates the queue, or correct SQS_QUEUE_URL")
    return SandboxError(f"{' '.join(str(error).split())}; run make up, or correct AWS_ENDPOINT_URL and SQS_QUEUE_URL")
