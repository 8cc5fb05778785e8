"""What the loader remembers of the messages that it holds."""

import sys
from collections.abc import Iterable, Sequence

from loader.sqs import RECEIVE_MAX, Message


class Held(dict[str, tuple[float, float]]):
    """Each message that we hold, by receipt handle: until when it is ours, and when it was received."""

    def __init__(self, lease_seconds: float, keep_seconds: float, max_messages: int, max_bytes: int) -> None:
        """A lease lasts from a receive or an extension. No message is extended *keep_seconds* after its receive."""
        super().__init__()
        self.lease_seconds, self._keep_seconds, self._max_messages, self._max_bytes = lease_seconds, keep_seconds, max_messages, max_bytes
        self.bytes = 0  # of what has not landed
        self._answer_bytes = 10_240  # what an answer may weigh: the heaviest lately

    def has_room(self, under_way: int) -> bool:
        """Whether one more answer may come beside those *under_way*. One always may, however heavy."""
        answers, is_empty = under_way + 1, not (under_way or self)
        has_messages = len(self) + answers * RECEIVE_MAX <= self._max_messages
        return is_empty or (has_messages and self.bytes + answers * self._answer_bytes <= self._max_bytes)

    def take(self, messages: Sequence[Message], now: float) -> None:
        """An answer brought *messages* at *now*."""
        self.update(dict.fromkeys([message.receipt_handle for message in messages], (now + self.lease_seconds, now)))
        self.bytes += (heavy := weight(messages))
        self._answer_bytes = max(heavy, self._answer_bytes * 99 // 100)

    def due(self, now: float) -> list[str]:
        """The messages to extend: half their time is over, but not all of it."""
        late = now + self.lease_seconds / 2
        return [handle for handle, (end, taken) in self.items() if now < end <= late and now - taken < self._keep_seconds]

    def extend(self, handles: Iterable[str], asked_at: float) -> None:
        """SQS extended these when asked at *asked_at*; those that we let go of meanwhile stay so."""
        self.update({handle: (asked_at + self.lease_seconds, self[handle][1]) for handle in handles if handle in self})

    def ours(self, handles: Iterable[str], now: float) -> list[str]:
        """Those of *handles* that others do not receive yet; of the rest, a delete would succeed and delete nothing."""
        return [handle for handle in handles if handle in self and self[handle][0] > now]

    def drop(self, handles: Iterable[str]) -> None:
        """Let go of these."""
        for handle in handles:
            self.pop(handle, None)


def weight(messages: Sequence[Message]) -> int:
    """The bytes that the bodies and attributes of *messages* take."""
    return sum(sys.getsizeof(message.body) + sys.getsizeof(message.attributes) for message in messages)
