"""What a receive brought, as rows for PostgreSQL's binary COPY, and how much of it the loader holds: not deleted or given back yet."""

import base64
import hashlib
import json
import re
import struct
from dataclasses import dataclass, field
from typing import Any

from loader.errors import TemporaryError

RECEIVE_MAX = 10
LATEST_SENT_MS = 32_503_680_000_000  # the year 3000
SURROGATE = re.compile("[\ud800-\udfff]")
# https://www.postgresql.org/docs/current/sql-copy.html: each field is preceded by its length, a time counts microseconds since 2000.
HEADER, TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
FOUR_FIELDS, TIME, LENGTH = struct.Struct("!hi"), struct.Struct("!iqi"), struct.Struct("!i")
YEAR_2000_MS = 946_684_800_000
# boto3 gives a binary attribute as bytes, the API as base64.
_JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=lambda value: base64.b64encode(value).decode()).encode


@dataclass(slots=True, eq=False)
class Delivery:
    """The messages of one receive; others do not get them before *until*, and landed ones have no rows any more."""

    until: float
    handles: list[str] = field(default_factory=list, repr=False)
    sent_ms: list[int] = field(default_factory=list)  # SentTimestamp of each
    rows: list[bytes] = field(default_factory=list, repr=False)  # message_id, sent_at, body, attributes, as COPY takes them
    redelivered: int = 0
    damaged: list[str] = field(default_factory=list)  # what was wrong with each message that is left alone, so that it comes back

    def read(self, messages: list[Any]) -> None:
        """Take *messages*, as SQS describes them. What is wrong with one is told by its id and the kind of error alone."""
        for each in messages:
            try:
                self._read(each)
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError, TemporaryError) as error:
                reason = error if isinstance(error, TemporaryError) else type(error).__name__
                self.damaged.append(f"a message that is not as SQS describes them: {reason}")

    def _read(self, found: Any) -> None:
        attributes, body = found["Attributes"], found["Body"].encode(errors="surrogatepass")
        sent_ms, receives = int(attributes.pop("SentTimestamp")), int(attributes.pop("ApproximateReceiveCount", 1))
        if not isinstance(found["ReceiptHandle"], str):
            raise TypeError("ReceiptHandle")
        digest = found.get("MD5OfBody")
        if digest and digest != hashlib.md5(body, usedforsecurity=False).hexdigest():
            raise TemporaryError(f"the body of {found['MessageId']} does not match MD5OfBody")
        if sent := found.get("MessageAttributes"):
            attributes["MessageAttributes"] = sent
        kept = _JSON({"ApproximateReceiveCount": receives, **attributes}) if attributes else f'{{"ApproximateReceiveCount": {receives}}}'
        self.add(found["ReceiptHandle"], found["MessageId"], sent_ms, found["Body"], kept)
        self.redelivered += receives > 1

    def add(self, handle: str, message_id: str, sent_ms: int, body: str, attributes: str = "{}") -> None:
        """Add one message, sent at *sent_ms*; its *attributes* are a JSON object."""
        if not (message_id.isascii() and message_id.isprintable() and 0 <= sent_ms < LATEST_SENT_MS):
            raise TemporaryError("its MessageId or SentTimestamp cannot be")
        key, stored, others = message_id.encode(), storable(body), storable(attributes)
        time = TIME.pack(8, (sent_ms - YEAR_2000_MS) * 1000, len(stored))
        self.rows.append(b"".join((FOUR_FIELDS.pack(4, len(key)), key, time, stored, LENGTH.pack(len(others)), others)))
        self.handles.append(handle)
        self.sent_ms.append(sent_ms)


class Held(set[Delivery]):
    """The deliveries that we hold: how many messages, and how many bytes of what has not landed."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        """Hold no more than that."""
        super().__init__()
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self.messages = self.bytes = 0
        self._delivery_bytes = 10_240  # what the next one may weigh: the heaviest lately

    def has_room(self, under_way: int) -> bool:
        """Whether one more may come beside those *under_way*. One always may, however heavy."""
        more, is_empty = under_way + 1, not (under_way or self)
        has_messages = self.messages + more * RECEIVE_MAX <= self._max_messages
        return is_empty or (has_messages and self.bytes + more * self._delivery_bytes <= self._max_bytes)

    def take(self, delivery: Delivery) -> None:
        """It was received."""
        self.add(delivery)
        weight = sum(map(len, delivery.rows))
        self.messages += len(delivery.handles)
        self.bytes += weight
        self._delivery_bytes = max(weight, self._delivery_bytes * 99 // 100)

    def landed(self, delivery: Delivery) -> None:
        """Its bodies are not needed any more."""
        self.bytes -= sum(map(len, delivery.rows))
        delivery.rows = []

    def drop(self, delivery: Delivery) -> None:
        """It was deleted or given back."""
        if delivery in self:
            self.remove(delivery)
            self.messages -= len(delivery.handles)
            self.landed(delivery)


def storable(text: str) -> bytes:
    r"""*text* in UTF-8, or `\x` and the hex of that where PostgreSQL's text cannot hold it (U+0000, lone surrogates).

    That form is never JSON, so SQL rejects the message; no content can stop the loader.
    """
    encoded = text.encode(errors="surrogatepass")
    is_text = "\0" not in text and (text.isascii() or not SURROGATE.search(text))
    return encoded if is_text else b"\\x" + encoded.hex().encode()
