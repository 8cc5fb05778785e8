"""What the loader remembers of the messages that it holds and of the servers that it calls; nothing here waits for a server."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field


def backoff_seconds(failures: int, longest: float = 5.0) -> float:
    """How long to wait after *failures* in a row (1 and up): from 0.1 s it doubles, up to *longest*.

    It is random, so that loaders do not march in step.
    """
    return float(random.uniform(0.5, 1) * min(longest, 0.1 * 2 ** min(failures - 1, 10)))  # noqa: S311  # no secret depends on it


@dataclass(slots=True)
class Outage:
    """For how long a server has failed at every attempt."""

    failures: int = 0
    since: float = 0.0

    def failed(self, now: float) -> float:
        """Another attempt failed: the seconds since the first that did."""
        self.since = self.since if self.failures else now
        self.failures += 1
        return now - self.since

    def over(self) -> None:
        """An attempt succeeded."""
        self.failures = 0


class Leases:
    """Until when each message is ours, by receipt handle, in the order in which that ends."""

    def __init__(self, seconds: float, longest: float) -> None:
        """A lease lasts *seconds* from its receive or extension. No message is extended *longest* seconds after its receive."""
        self.seconds, self._longest = seconds, longest
        self._ends: dict[str, tuple[float, float]] = {}  # the end, and the time of the receive

    def __len__(self) -> int:
        """How many messages we hold."""
        return len(self._ends)

    def take(self, handles: Iterable[str], now: float) -> None:
        """We received these messages at *now*."""
        self._ends.update(dict.fromkeys(handles, (now + self.seconds, now)))

    def due(self, now: float) -> list[str]:
        """The messages to extend: half their time is over, but not all of it."""
        due: list[str] = []
        for handle, (end, taken) in self._ends.items():
            if end - now > self.seconds / 2:
                break
            if now < end and now - taken < self._longest:
                due.append(handle)
        return due

    def extend(self, handles: Iterable[str], asked_at: float) -> None:
        """SQS extended these when asked at *asked_at*; those that we let go of meanwhile stay so."""
        for handle in handles:
            if held := self._ends.pop(handle, None):
                self._ends[handle] = (asked_at + self.seconds, held[1])  # at the end: the order is by time

    def lapse(self, handles: Iterable[str]) -> None:
        """SQS says that these are not ours any more."""
        for handle in handles:
            if held := self._ends.get(handle):
                self._ends[handle] = (0.0, held[1])

    def lapsed(self, handles: Iterable[str], now: float) -> list[str]:
        """Those of *handles* that others may receive by now; a delete would succeed and delete nothing."""
        return [handle for handle in handles if self._ends.get(handle, (0.0, 0.0))[0] <= now]

    def drop(self, handles: Iterable[str]) -> None:
        """Let go of these."""
        for handle in handles:
            self._ends.pop(handle, None)

    def all(self) -> list[str]:
        """Every message that we hold."""
        return list(self._ends)

    def seconds_to_next(self, now: float) -> float:
        """When to look for due messages again: in half a lease at most."""
        ends = next((end for end, _ in self._ends.values() if end > now), now + self.seconds)
        return min(max(ends - self.seconds / 2 - now, self.seconds / 40), self.seconds / 2)


class Budget:
    """How many messages, and bytes of bodies, may be held; a receive reserves room for a whole answer before it asks."""

    def __init__(self, messages: int, max_bytes: int, reply_messages: int) -> None:
        """*reply_messages* is the most that one answer brings."""
        self._messages = self._most = messages
        self._bytes = max_bytes
        self._reply_messages = reply_messages
        self._reply_bytes = 10_240  # what an answer may weigh: the heaviest lately

    def has_room(self) -> bool:
        """Whether another answer may be held; one always may, however heavy."""
        return self._messages == self._most or (self._messages >= self._reply_messages and self._bytes >= self._reply_bytes)

    def reserve(self) -> int:
        """Set room aside for another answer, and return the bytes of it."""
        self._messages -= self._reply_messages
        self._bytes -= self._reply_bytes
        return self._reply_bytes

    def settle(self, reserved_bytes: int, messages: int, weight: int) -> None:
        """The answer brought so many messages of that *weight* in bytes: give back the rest of what was reserved."""
        self._reply_bytes = max(weight, self._reply_bytes * 99 // 100)
        self.give_back(self._reply_messages - messages, reserved_bytes - weight)

    def give_back(self, messages: int, weight: int) -> None:
        """So many messages, and bytes, are held no longer."""
        self._messages += messages
        self._bytes += weight


@dataclass(slots=True)
class DrainEnd:
    """Whether a drained queue is empty: several answers in a row brought nothing, and then SQS counts nothing."""

    patience_seconds: tuple[float, float]  # what others hold is waited for as long as the queue hides it, within these bounds
    last_message: float = 0.0
    empty_answers: int = field(default=0)

    def messages(self, now: float) -> None:
        """An answer brought messages at *now*."""
        self.last_message, self.empty_answers = now, 0

    def impatient(self, visibility_seconds: float, now: float) -> bool:
        """Whether what others hold has been waited for long enough."""
        shortest, longest = self.patience_seconds
        return now - self.last_message > min(max(visibility_seconds, shortest), longest)
