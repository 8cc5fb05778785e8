"""The login queue as the environment names it: the emulator's, or any other."""

import os
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sandbox.errors import SandboxError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

DEAD_LETTER_SUFFIX = "-dlq"


def client() -> "SQSClient":
    """A client by boto3's own variables, and AWS_REGION, which boto3 alone among Amazon's SDKs does not read."""
    timeouts = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})
    return boto3.client("sqs", region_name=os.environ.get("AWS_REGION"), config=timeouts)


def depth(url: str) -> int:
    """How many messages the queue at *url* holds, those in flight and delayed ones included. SQS says so roughly, the emulator exactly."""
    try:
        attributes = client().get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    except (BotoCoreError, ClientError, ValueError) as error:
        raise unreachable(url, error) from error
    return sum(int(value) for name, value in attributes.items() if name.startswith("ApproximateNumberOfMessages"))


def unreachable(url: str, error: Exception) -> SandboxError:
    """What to tell when the queue at *url* cannot be used."""
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "an error")
        return SandboxError(f"SQS refused {url}: {code}; make up creates the queue, or correct SQS_QUEUE_URL")
    return SandboxError(f"{' '.join(str(error).split())}; run make up, or correct AWS_ENDPOINT_URL and SQS_QUEUE_URL")
