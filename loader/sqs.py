"""The queue as the loader sees it: receive, delete, hold on to, let go, count."""

import asyncio
import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loader import wire
from loader.errors import LoaderError, refused, unavailable, wrong_setting
from loader.settings import LoaderSettings
from loader.wire import Caller, SqsError

RECEIVE_MAX = 10
LONGEST_WAIT_SECONDS = 20
OPEN_ATTEMPTS = 5

UNKNOWN_QUEUE_CODES = frozenset({"QueueDoesNotExist", "InvalidAddress"})
REFUSED_CODES = frozenset(
    {
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
    }
)
EXPIRED_HANDLE_CODES = frozenset({"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"})


@dataclass(slots=True)
class Message:
    """A message that we hold: *sent_ms* is SQS's SentTimestamp, *deadline* the loop's time when others may receive it."""

    message_id: str
    sent_ms: int
    body: str = field(repr=False)
    receipt_handle: str = field(repr=False)
    deadline: float


@dataclass(frozen=True, slots=True)
class Depth:
    """About how many messages a queue has: to be received, held by someone, and not to be received yet."""

    visible: int
    in_flight: int
    delayed: int


@dataclass(frozen=True, slots=True)
class Queue:
    """An SQS queue, and its visibility time-out: how long a message stays ours after each receive or extension."""

    url: str
    caller: Caller
    visibility_seconds: float


async def open_queue(settings: LoaderSettings) -> Queue:
    """Find the queue of *settings*, and make sure that we may also delete from it and extend.

    A loader that may receive and not delete would land the same messages for ever, so it does not begin: deleting an
    invented receipt handle harms nothing, and tells AccessDenied from ReceiptHandleIsInvalid.

    Raises:
        LoaderError: not there, not reached, or we may not do one of these.
    """
    url = settings.sqs_queue_url
    # Each receiver has a connection, and each deleter; extending and counting need some more.
    caller = wire.connect(url, settings.aws_region, settings.loader_timeout_seconds, 3 * settings.loader_receivers + 1)
    try:
        answer = await _persist(caller, "GetQueueAttributes", {"QueueUrl": url, "AttributeNames": ["VisibilityTimeout"]})
        visibility_seconds = int(answer["Attributes"]["VisibilityTimeout"])
        for action, extra in (("DeleteMessageBatch", {}), ("ChangeMessageVisibilityBatch", {"VisibilityTimeout": 0})):
            entry = {"Id": "probe", "ReceiptHandle": "probe", **extra}
            answer = await _persist(caller, action, {"QueueUrl": url, "Entries": [entry]})
            for failure in answer.get("Failed", []):
                if failure.get("Code") in REFUSED_CODES:
                    raise SqsError(failure["Code"], f"{action} is not allowed")  # noqa: TRY301  # as if the call had said so
    except SqsError as error:
        await caller.close()
        raise fatal(error, url) or unavailable(
            f"queue {url} cannot be reached: {error}; check AWS_ENDPOINT_URL, or try again later"
        ) from None
    if not visibility_seconds:
        await caller.close()
        raise wrong_setting(
            f"queue {url} has a visibility time-out of 0 s, so nothing received from it can be deleted; set it to 30 s or more"
        )
    return Queue(url, caller, visibility_seconds)


async def _persist(caller: Caller, action: str, parameters: wire.Parameters) -> dict[str, Any]:
    """Call, and call again when SQS answers that it cannot now; one who does not answer at all is reported at once."""
    for failures in range(1, OPEN_ATTEMPTS):
        try:
            return await caller.call(action, parameters)
        except SqsError as error:
            if error.code == "Unreachable" or error.code in UNKNOWN_QUEUE_CODES | REFUSED_CODES:
                raise
            await asyncio.sleep(backoff_seconds(failures))
    return await caller.call(action, parameters)


async def receive(queue: Queue, wait_seconds: int) -> list[Message]:
    """Take up to ten messages, waiting up to *wait_seconds* (0 to 20) for the first.

    They are ours for the queue's visibility time-out and come back unless deleted. A body that does not match the
    digest which SQS sent with it is left alone, so it comes back too.

    Raises:
        SqsError: the call failed.
    """
    parameters = {
        "QueueUrl": queue.url,
        "MaxNumberOfMessages": RECEIVE_MAX,
        "WaitTimeSeconds": wait_seconds,
        "MessageSystemAttributeNames": ["SentTimestamp"],
    }
    answer = await queue.caller.call("ReceiveMessage", parameters, wait_seconds)
    deadline = asyncio.get_running_loop().time() + queue.visibility_seconds
    try:
        return [
            Message(found["MessageId"], int(found["Attributes"]["SentTimestamp"]), found["Body"], found["ReceiptHandle"], deadline)
            for found in answer.get("Messages", ())
            if _is_intact(found)
        ]
    except (KeyError, ValueError) as error:
        raise SqsError("InvalidAnswer", f"a message without a usable {error}") from None


def _is_intact(found: dict[str, Any]) -> bool:
    digest = found.get("MD5OfBody")
    body: str = found["Body"]
    return digest is None or digest == hashlib.md5(body.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()


async def delete(queue: Queue, messages: Sequence[Message]) -> dict[str, list[Message]]:
    """Delete up to ten messages; return those that SQS did not delete, by the code that it gave.

    Raises:
        SqsError: the call failed; some or all may have been deleted all the same.
    """
    entries = [{"Id": str(index), "ReceiptHandle": message.receipt_handle} for index, message in enumerate(messages)]
    answer = await queue.caller.call("DeleteMessageBatch", {"QueueUrl": queue.url, "Entries": entries})
    return _failures(answer, messages)


async def change_visibility(queue: Queue, messages: Sequence[Message], seconds: float) -> dict[str, list[Message]]:
    """Hide up to ten messages from others for *seconds* from now, or, with 0, let others have them at once.

    Returns those that SQS refused, by the code that it gave.

    Raises:
        SqsError: the call failed.
    """
    entries = [
        {"Id": str(index), "ReceiptHandle": message.receipt_handle, "VisibilityTimeout": int(seconds)}
        for index, message in enumerate(messages)
    ]
    answer = await queue.caller.call("ChangeMessageVisibilityBatch", {"QueueUrl": queue.url, "Entries": entries})
    return _failures(answer, messages)


async def depth(queue: Queue) -> Depth:
    """Count the queue's messages. SQS calls it approximate: the figures settle within about a minute.

    Raises:
        SqsError: the call failed.
    """
    names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed")
    answer = await queue.caller.call("GetQueueAttributes", {"QueueUrl": queue.url, "AttributeNames": list(names)})
    attributes = answer.get("Attributes", {})
    return Depth(*(int(attributes.get(name, 0)) for name in names))


def _failures(answer: dict[str, Any], messages: Sequence[Message]) -> dict[str, list[Message]]:
    failures: dict[str, list[Message]] = {}
    for failure in answer.get("Failed", ()):
        failures.setdefault(str(failure.get("Code")), []).append(messages[int(failure["Id"])])
    return failures


def backoff_seconds(failures: int) -> float:
    """How long to wait after *failures* in a row (1 and up).

    It doubles from 0.1 s to 5 s, and is random, so that loaders do not march in step.
    """
    return float(random.uniform(0.5, 1) * min(5.0, 0.1 * 2 ** min(failures - 1, 10)))  # noqa: S311  # no secret depends on it


def fatal(error: SqsError, url: str) -> LoaderError | None:
    """What to stop with when trying again cannot help, or None when it may."""
    if error.code in UNKNOWN_QUEUE_CODES:
        return unavailable(f"queue {url} does not exist; check SQS_QUEUE_URL and AWS_DEFAULT_REGION, or run make up")
    if error.code in REFUSED_CODES:
        return refused(f"queue {url}: SQS refuses us ({error}); check the credentials and the queue's policy")
    if error.code == "InvalidAnswer":
        return LoaderError(f"queue {url}: {error.message}; is this SQS?", os.EX_PROTOCOL)
    if error.code in {"UnsupportedOperation", "InvalidAction", "UnknownOperationException"}:
        return wrong_setting(f"queue {url}: the endpoint does not know the call ({error}); check AWS_ENDPOINT_URL")
    return None
