"""The queue as the loader sees it: receive, delete, give back, count."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from loader import aws
from loader.client import Endpoint, SqsClient
from loader.delivery import RECEIVE_MAX, Delivery
from loader.errors import LoaderError, SqsError, TemporaryError, unavailable
from loader.settings import LoaderSettings

# What is landed with a body. The others say nothing of the message (SenderId: the producer's identity in AWS), and weigh 90 bytes.
SYSTEM_ATTRIBUTES = ["SentTimestamp", "ApproximateReceiveCount", "MessageGroupId", "SequenceNumber", "DeadLetterQueueSourceArn"]
ASKED = {"MaxNumberOfMessages": RECEIVE_MAX, "MessageSystemAttributeNames": SYSTEM_ATTRIBUTES, "MessageAttributeNames": ["All"]}
DEPTHS = tuple(f"ApproximateNumberOfMessages{state}" for state in ("", "NotVisible", "Delayed"))
# What trying again cannot help: what to exit with, what to do, and SQS's codes.
REFUSED = "SQS refuses us; check the credentials and the queue's policy"
FATAL = (
    (os.EX_UNAVAILABLE, "check SQS_QUEUE_URL and AWS_DEFAULT_REGION, or run make up", "QueueDoesNotExist InvalidAddress"),
    (os.EX_NOPERM, REFUSED, "AccessDenied KmsAccessDenied NotAuthorized OptInRequired InvalidSecurity InvalidClientTokenId"),
    (os.EX_NOPERM, REFUSED, "MissingAuthenticationToken UnrecognizedClientException IncompleteSignature"),
    (os.EX_NOPERM, REFUSED, "InvalidSignatureException SignatureDoesNotMatch"),
    (os.EX_PROTOCOL, "is this SQS? check AWS_ENDPOINT_URL", "UnsupportedOperation InvalidAction UnknownOperationException InvalidAnswer"),
)
# What SQS says of a single message whose receipt handle no longer counts.
GONE_CODES = frozenset({"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"})

Failures = dict[str, str]  # the code that SQS gave, by receipt handle


@dataclass(slots=True)
class Queue:
    """An SQS queue, and for how long each receive hides a message from others. Every call may raise an SqsError."""

    url: str
    client: SqsClient | aws.BotoClient
    visibility_seconds: int

    async def check(self) -> None:
        """Make sure that we may also delete and give back: a loader that may only receive would land the same messages for ever.

        Deleting an invented receipt handle harms nothing, and tells AccessDenied from ReceiptHandleIsInvalid. Where SQS answers that it
        cannot now, the pipeline will ask again; one that does not answer at all is reported at once, as a LoaderError.
        """
        try:
            await self.depth()
            await self.delete(["probe"])
            await self.release(["probe"])
        except SqsError as error:
            end_if_fatal(error, self.url)
            if error.code in {"Unreachable", "NoCredentials"}:
                raise unavailable(f"queue {self.url} cannot be reached: {error}; check AWS_ENDPOINT_URL, or try again later") from None

    async def receive(self, wait_seconds: int) -> Delivery:
        """Take up to ten messages, waiting up to *wait_seconds* (0 to 20) for the first; they come back unless deleted."""
        asked = {"QueueUrl": self.url, "WaitTimeSeconds": wait_seconds, "VisibilityTimeout": self.visibility_seconds, **ASKED}
        answer = await self.client.call("ReceiveMessage", asked, wait_seconds)
        if not isinstance(found := answer.get("Messages") or [], list):
            raise SqsError("InvalidAnswer", "Messages is no list")
        delivery = Delivery(monotonic() + self.visibility_seconds)
        delivery.read(found)
        return delivery

    async def delete(self, handles: Sequence[str]) -> Failures:
        """Delete up to ten messages; return those that SQS did not delete. Where the call fails, all may have been deleted all the same."""
        return await self._batch("DeleteMessageBatch", handles)

    async def release(self, handles: Sequence[str]) -> Failures:
        """Give up to ten messages back, for others to receive at once; return those that SQS refused."""
        return await self._batch("ChangeMessageVisibilityBatch", handles, VisibilityTimeout=0)

    async def depth(self) -> tuple[int, ...]:
        """About how many messages are visible, in flight with any consumer, and delayed; the figures settle within about a minute."""
        answer = await self.client.call("GetQueueAttributes", {"QueueUrl": self.url, "AttributeNames": DEPTHS})
        try:
            return tuple(int(answer["Attributes"][name]) for name in DEPTHS)
        except (KeyError, TypeError, ValueError):
            raise SqsError("InvalidAnswer", "the queue's attributes are not numbers") from None

    async def _batch(self, action: str, handles: Sequence[str], **entry: int) -> Failures:
        """What of *handles* does not stand under Successful; a success that SQS does not confirm is none."""
        entries = [{"Id": str(at), "ReceiptHandle": handle, **entry} for at, handle in enumerate(handles)]
        answer = await self.client.call(action, {"QueueUrl": self.url, "Entries": entries})
        try:
            done = {each["Id"] for each in answer.get("Successful") or ()}
            codes = {each["Id"]: str(each.get("Code")) for each in answer.get("Failed") or ()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise SqsError("InvalidAnswer", "an answer to a batch without the Ids of its entries") from None
        return {handle: codes.get(str(at), "NoAnswer") for at, handle in enumerate(handles) if str(at) not in done}


def connect(settings: LoaderSettings) -> Queue:
    """The queue by the loader's own client or, where that could not do as boto3 does, and where the setting says so, by boto3."""
    timeout = settings.loader_timeout_seconds
    # Each receiver has a connection, and each deleter; giving back and counting need some more.
    boto3 = aws.sqs_client(settings.sqs_queue_url, settings.aws_region, timeout, 3 * settings.loader_receivers + 1)
    client: SqsClient | aws.BotoClient = aws.BotoClient(boto3)
    if settings.loader_sqs_client == "own" and aws.is_plain(boto3):
        endpoint = Endpoint.parse(boto3.meta.endpoint_url, boto3.meta.region_name)
        client = SqsClient(endpoint, aws.Identity(), aws.tls_context(boto3), timeout)
    return Queue(settings.sqs_queue_url, client, settings.loader_visibility_seconds)


def end_if_fatal(error: TemporaryError, url: str) -> None:
    """Raise a LoaderError where trying again cannot help."""
    for exit_code, advice, codes in FATAL:
        if error.code in codes.split():
            raise LoaderError(f"queue {url}: {error}; {advice}", exit_code) from None
