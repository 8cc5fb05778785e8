"""What the loader remembers of the messages that it holds and of the servers that it calls; nothing here waits for a server."""

import random
from collections.abc import Collection
from dataclasses import dataclass


def backoff_seconds(failures: int) -> float:
    """How long to wait after *failures* in a row: from 0.1 s it doubles, up to 5 s; random, so that loaders keep out of step."""
    return random.uniform(0.5, 1) * min(5.0, 0.1 * 2.0 ** min(failures - 1, 10)) if failures else 0.0  # noqa: S311  # no secret


@dataclass(slots=True)
class Outage:
    """For how long a server has failed at every attempt; an attempt that succeeds sets *failures* to 0."""

    failures: int = 0
    since: float = 0.0

    def failed(self, now: float) -> float:
        """Another attempt failed: the seconds since the first that did."""
        self.since = self.since if self.failures else now
        self.failures += 1
        return now - self.since


class Leases(dict[str, tuple[float, float]]):
    """Each message that we hold, by receipt handle: until when it is ours, and when it was received; in the order of the former."""

    def __init__(self, seconds: float, longest: float) -> None:
        """A lease lasts *seconds* from its receive or extension. No message is extended *longest* seconds after its receive."""
        super().__init__()
        self.seconds, self._longest = seconds, longest

    def take(self, handles: Collection[str], now: float) -> None:
        """We received these messages at *now*."""
        self.update(dict.fromkeys(handles, (now + self.seconds, now)))

    def due(self, now: float) -> list[str]:
        """The messages to extend: half their time is over, but not all of it."""
        due: list[str] = []
        for handle, (end, taken) in self.items():
            if end - now > self.seconds / 2:
                break
            if now < end and now - taken < self._longest:
                due.append(handle)
        return due

    def extend(self, handles: Collection[str], asked_at: float) -> None:
        """SQS extended these when asked at *asked_at*; those that we let go of meanwhile stay so."""
        for handle in handles:
            if held := self.pop(handle, None):
                self[handle] = (asked_at + self.seconds, held[1])

    def lapsed(self, handles: Collection[str], now: float) -> set[str]:
        """Those of *handles* that others may receive by now; a delete would succeed and delete nothing."""
        return {handle for handle in handles if self.get(handle, (0.0, 0.0))[0] <= now}

    def drop(self, handles: Collection[str]) -> None:
        """Let go of these."""
        for handle in handles:
            self.pop(handle, None)


@dataclass(slots=True)
class Budget:
    """How many messages, and bytes of bodies, are held, and may be."""

    max_messages: int
    max_bytes: int
    reply_messages: int  # the most that one answer brings
    messages: int = 0
    bytes: int = 0
    reply_bytes: int = 10_240  # what an answer may weigh: the heaviest lately

    def has_room(self, under_way: int) -> bool:
        """Whether one more answer may come beside those *under_way*. One always may, however heavy."""
        answers, is_empty = under_way + 1, not (under_way or self.messages)
        fits = (
            self.messages + answers * self.reply_messages <= self.max_messages and self.bytes + answers * self.reply_bytes <= self.max_bytes
        )
        return fits or is_empty

    def take(self, messages: int, weight: int) -> None:
        """An answer brought so many messages of that *weight* in bytes."""
        self.messages += messages
        self.bytes += weight
        self.reply_bytes = max(weight, self.reply_bytes * 99 // 100)


@dataclass(slots=True)
class DrainEnd:
    """Whether a drained queue is empty: several answers in a row brought nothing, and then SQS counts nothing."""

    last_message: float
    empty_answers: int = 0

    def answered(self, messages: int, now: float) -> None:
        """An answer brought so many messages at *now*."""
        self.empty_answers = 0 if messages else self.empty_answers + 1
        self.last_message = now if messages else self.last_message
