"""The queue as the loader sees it: receive, delete, extend or give back, count."""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from loader import aws
from loader.errors import LoaderError, SqsError, refused, unavailable, wrong_setting
from loader.held import backoff_seconds
from loader.settings import LoaderSettings
from loader.signing import Endpoint
from loader.wire import SignedCaller

RECEIVE_MAX = 10
OPEN_ATTEMPTS = 5
# What is landed with a body. The others say nothing of the message (SenderId: the producer's identity in AWS), and weigh 90 bytes.
SYSTEM_ATTRIBUTES = ("SentTimestamp", "ApproximateReceiveCount", "MessageGroupId", "SequenceNumber", "DeadLetterQueueSourceArn")
LATEST_SENT_MS = 32_503_680_000_000  # the year 3000

UNKNOWN_QUEUE_CODES = frozenset({"QueueDoesNotExist", "InvalidAddress"})
REFUSED_CODES = frozenset(
    [
        "AccessDenied",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidSignatureException",
        "KmsAccessDenied",
        "MissingAuthenticationToken",
        "NotAuthorized",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    ]
)
UNSUPPORTED_CODES = frozenset({"UnsupportedOperation", "InvalidAction", "UnknownOperationException"})
# What SQS says of a single message whose receipt handle no longer counts.
GONE_CODES = frozenset({"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"})

Failures = dict[str, list[str]]  # receipt handles by the code that SQS gave


@dataclass(slots=True)
class Message:
    """One message: *sent_ms* is its SentTimestamp, *attributes* the others and its MessageAttributes, as a JSON object."""

    message_id: str
    sent_ms: int
    body: str = field(repr=False)
    attributes: str = field(repr=False)
    receipt_handle: str = field(repr=False)
    receives: int = 1


@dataclass(frozen=True, slots=True)
class Depth:
    """About how many messages a queue has: visible, in flight with any consumer, and delayed; and its own visibility time-out."""

    visible: int
    in_flight: int
    delayed: int
    visibility_seconds: int


class Caller(Protocol):
    """Something that makes a call to SQS; see `loader.wire.SignedCaller.call`."""

    async def call(self, action: str, parameters: Mapping[str, Any], wait_seconds: int = 0, /) -> dict[str, Any]: ...  # noqa: D102
    async def close(self) -> None: ...  # noqa: D102


@dataclass(slots=True)
class Queue:
    """An SQS queue, and for how long each receive and each extension hides a message from others."""

    url: str
    caller: Caller
    visibility_seconds: int

    async def check(self) -> None:
        """Make sure that we may also delete and extend: a loader that may only receive would land the same messages for ever.

        Deleting an invented receipt handle harms nothing, and tells AccessDenied from ReceiptHandleIsInvalid.

        Raises:
            LoaderError: the queue is not there, not reached, or we may not do one of these.
        """
        try:
            await self._persist("GetQueueAttributes", {"AttributeNames": ["QueueArn"]})
            for action, extra in (("DeleteMessageBatch", {}), ("ChangeMessageVisibilityBatch", {"VisibilityTimeout": 0})):
                entry = {"Id": "0", "ReceiptHandle": "probe", **extra}
                for code in _failures(await self._persist(action, {"Entries": [entry]}), ["probe"]):
                    if code in REFUSED_CODES:
                        raise SqsError(code, f"{action} is not allowed")  # noqa: TRY301  # as if the call had said so
        except SqsError as error:
            hint = f"queue {self.url} cannot be reached: {error}; check AWS_ENDPOINT_URL, or try again later"
            raise fatal(error, self.url) or unavailable(hint) from None

    async def _persist(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Call, and call again when SQS answers that it cannot now; one that does not answer at all is reported at once."""
        for failures in range(1, OPEN_ATTEMPTS):
            try:
                return await self._call(action, **parameters)
            except SqsError as error:
                if error.code in {"Unreachable", "NoCredentials"} | UNKNOWN_QUEUE_CODES | REFUSED_CODES | UNSUPPORTED_CODES:
                    raise
                await asyncio.sleep(backoff_seconds(failures))
        return await self._call(action, **parameters)

    async def _call(self, action: str, **parameters: Any) -> dict[str, Any]:
        return await self.caller.call(action, {"QueueUrl": self.url, **parameters}, parameters.get("WaitTimeSeconds", 0))

    async def receive(self, wait_seconds: int) -> tuple[list[Message], list[str]]:
        """Take up to ten messages, waiting up to *wait_seconds* (0 to 20) for the first; they come back unless deleted.

        Returns too what was wrong with each message that arrived damaged. It is left alone, so it comes back as well.

        Raises:
            SqsError: the call failed.
        """
        answer = await self._call(
            "ReceiveMessage",
            MaxNumberOfMessages=RECEIVE_MAX,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=self.visibility_seconds,
            MessageSystemAttributeNames=SYSTEM_ATTRIBUTES,
            MessageAttributeNames=["All"],
        )
        if not isinstance(found := answer.get("Messages") or [], list):
            raise SqsError("InvalidAnswer", "Messages is no list")
        read = [_read(each) for each in found]
        return [each for each in read if isinstance(each, Message)], [each for each in read if isinstance(each, str)]

    async def delete(self, handles: Sequence[str]) -> Failures:
        """Delete up to ten messages; return those that SQS did not delete.

        Raises:
            SqsError: the call failed; some or all may have been deleted all the same.
        """
        entries = [{"Id": str(index), "ReceiptHandle": handle} for index, handle in enumerate(handles)]
        return _failures(await self._call("DeleteMessageBatch", Entries=entries), handles)

    async def hide(self, handles: Sequence[str], seconds: int) -> Failures:
        """Hide up to ten messages from others for *seconds* from now, or, with 0, give them back; return those that SQS refused.

        Raises:
            SqsError: the call failed.
        """
        entries = [{"Id": str(index), "ReceiptHandle": handle, "VisibilityTimeout": seconds} for index, handle in enumerate(handles)]
        return _failures(await self._call("ChangeMessageVisibilityBatch", Entries=entries), handles)

    async def depth(self) -> Depth:
        """Count the queue's messages. SQS calls it approximate: the figures settle within about a minute.

        Raises:
            SqsError: the call failed.
        """
        count = "ApproximateNumberOfMessages"
        names = [count, f"{count}NotVisible", f"{count}Delayed", "VisibilityTimeout"]
        attributes = (await self._call("GetQueueAttributes", AttributeNames=names)).get("Attributes")
        try:
            return Depth(*(int(attributes[name]) for name in names))  # type: ignore[index]  # it is tried
        except (KeyError, TypeError, ValueError):
            raise SqsError("InvalidAnswer", "the queue's attributes are not numbers") from None


def connect(settings: LoaderSettings) -> Caller:
    """The loader's own client or, where that could not do as boto3 does, and where the setting says so, boto3.

    Raises:
        LoaderError: AWS's configuration is wrong.
    """
    timeout = settings.loader_timeout_seconds
    # Each receiver has a connection, and each deleter; extending and counting need some more.
    client = aws.sqs_client(settings.sqs_queue_url, settings.aws_region, timeout, 3 * settings.loader_receivers + 1)
    if settings.loader_sqs_client == "boto3" or not aws.is_plain(client):
        return aws.BotoCaller(client)
    endpoint = Endpoint.parse(client.meta.endpoint_url, client.meta.region_name)
    return SignedCaller(endpoint, aws.Identity(), aws.tls_context(client), timeout)


async def open_queue(settings: LoaderSettings) -> Queue:
    """The queue of *settings*, checked.

    Raises:
        LoaderError: see `Queue.check` and `connect`.
    """
    queue = Queue(settings.sqs_queue_url, await asyncio.to_thread(connect, settings), settings.loader_visibility_seconds)
    try:
        await queue.check()
    except BaseException:
        await queue.caller.close()
        raise
    return queue


def _read(found: Any) -> Message | str:
    """The message that SQS describes as *found*, or why it is damaged; its id alone may be told."""
    try:
        message_id, body, attributes = found["MessageId"], found["Body"], found["Attributes"]
        sent_ms, receives = int(attributes.pop("SentTimestamp")), int(attributes.pop("ApproximateReceiveCount", 1))
        digest = found.get("MD5OfBody")
        if digest and digest != hashlib.md5(body.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest():
            return f"message {message_id}: its body does not match MD5OfBody"
        if not (message_id.isascii() and message_id.isprintable() and 0 <= sent_ms < LATEST_SENT_MS):
            return "a message whose MessageId or SentTimestamp cannot be"
        pairs = [f'"ApproximateReceiveCount": {receives}', *(f"{_TEXT(name)}: {_TEXT(value)}" for name, value in attributes.items())]
        if found.get("MessageAttributes"):
            pairs.append(f'"MessageAttributes": {_JSON(found["MessageAttributes"])}')
        return Message(message_id, sent_ms, body, f"{{{', '.join(pairs)}}}", str(found["ReceiptHandle"]), receives)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        return f"a message that SQS describes without what every message has ({type(error).__name__})"


_TEXT = json.encoder.encode_basestring
# boto3 gives a binary attribute as bytes, the API as base64.
_JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=lambda value: base64.b64encode(value).decode()).encode


def _failures(answer: Mapping[str, Any], handles: Sequence[str]) -> Failures:
    """What of *handles* does not stand under Successful; a success that SQS does not confirm is none."""
    try:
        done = {int(entry["Id"]) for entry in answer.get("Successful") or ()}
        if len(done) == len(handles):
            return {}
        codes = {int(entry["Id"]): str(entry.get("Code")) for entry in answer.get("Failed") or ()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise SqsError("InvalidAnswer", "an answer to a batch without the Ids of its entries") from None
    failures: Failures = {}
    for index, handle in enumerate(handles):
        if index not in done:
            failures.setdefault(codes.get(index, "NoAnswer"), []).append(handle)
    return failures


def fatal(error: SqsError, url: str) -> LoaderError | None:
    """What to stop with where trying again cannot help, or None where it may."""
    if error.code in UNKNOWN_QUEUE_CODES:
        return unavailable(f"queue {url} does not exist; check SQS_QUEUE_URL and AWS_DEFAULT_REGION, or run make up")
    if error.code in REFUSED_CODES:
        return refused(f"queue {url}: SQS refuses us ({error}); check the credentials and the queue's policy")
    if error.code in UNSUPPORTED_CODES:
        return wrong_setting(f"queue {url}: the endpoint does not know the call ({error}); check AWS_ENDPOINT_URL")
    if error.code == "InvalidAnswer":
        return LoaderError(f"queue {url}: {error}; is this SQS?", os.EX_PROTOCOL)
    return None
