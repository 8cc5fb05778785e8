"""A queue and a database in memory, for the loader's parts without a server."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from loader.delivery import Delivery
from loader.pipeline import Pipeline
from loader.report import Report
from loader.settings import LoaderSettings
from loader.sqs import Failures

SENT_MS = 1_790_000_000_000


@dataclass
class MemoryQueue:
    """A queue with visibility time-outs by the loop's clock; *failures* are raised by the next calls of a kind."""

    bodies: dict[str, str]
    url: str = "memory:login-queue"
    visibility_seconds: int = 60
    hidden_until: dict[str, float] = field(default_factory=dict)
    receives: Counter[str] = field(default_factory=Counter)
    deleted: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    failures: dict[str, list[Exception]] = field(default_factory=dict)
    asking: int = 0
    most_asking: int = 0
    wait_seconds: float = 0.02
    others: int = 0  # messages that another consumer holds
    undeletable: bool = False

    async def _called(self, call: str) -> None:
        await asyncio.sleep(0)
        self.calls[call] += 1
        if failures := self.failures.get(call):
            raise failures.pop(0)

    def _visible(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        return [message_id for message_id in self.bodies if self.hidden_until.get(message_id, 0.0) <= now]

    async def receive(self, wait_seconds: int) -> Delivery:
        del wait_seconds  # `wait_seconds` of this queue is shorter
        self.asking += 1
        self.most_asking = max(self.most_asking, self.asking)
        try:
            await self._called("receive")
            if not self._visible():
                await asyncio.sleep(self.wait_seconds)  # long polling
        finally:
            self.asking -= 1
        found = Delivery(time.monotonic() + self.visibility_seconds)
        for message_id in self._visible()[:10]:
            self.hidden_until[message_id] = asyncio.get_running_loop().time() + self.visibility_seconds
            count = self.receives[message_id] = self.receives[message_id] + 1
            found.add(f"{message_id}/{count}", message_id, SENT_MS, self.bodies[message_id])
            found.redelivered += count > 1
        return found

    async def delete(self, handles: Sequence[str]) -> Failures:
        await self._called("delete")
        if self.undeletable:
            return dict.fromkeys(handles, "InternalError")
        for handle in handles:
            message_id, _, receive = handle.partition("/")
            if self.receives[message_id] == int(receive) and self.bodies.pop(message_id, None) is not None:
                self.deleted.append(message_id)
        return {}

    async def release(self, handles: Sequence[str]) -> Failures:
        await self._called("give back")
        for handle in handles:
            self.hidden_until[handle.partition("/")[0]] = 0.0
        return {}

    async def depth(self) -> tuple[int, ...]:
        await self._called("count")
        visible = len(self._visible())
        return (visible, len(self.bodies) - visible + self.others, 0)


def fields_of(row: bytes) -> list[bytes]:
    """message_id, sent_at, body and attributes, each of which COPY has after its length."""
    fields, at = list[bytes](), 2
    while at < len(row):
        end = at + 4 + int.from_bytes(row[at : at + 4])
        fields.append(row[at + 4 : end])
        at = end
    return fields


@dataclass
class MemoryLanding:
    """Keeps bodies by message id; *failures* are raised by the next attempts, *open* holds them up."""

    rows: dict[str, str] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def land(self, batch: Sequence[Delivery]) -> int:
        await self.open.wait()
        if self.failures:
            raise self.failures.pop(0)
        before = len(self.rows)
        for delivery in batch:
            for row in delivery.rows:
                message_id, _, body, _ = fields_of(row)
                self.rows.setdefault(message_id.decode(), body.decode())
        self.batches.append(sum(len(delivery.rows) for delivery in batch))
        return len(self.rows) - before


class Run(Report):
    """One pipeline over a queue and a database in memory, and what it reported."""

    def __init__(self, messages: int = 0, **settings: Any) -> None:
        super().__init__()
        self.queue, self.landing, self.stop = (
            MemoryQueue({f"m{at}": f"body {at}" for at in range(messages)}),
            MemoryLanding(),
            asyncio.Event(),
        )
        self.landing.open.set()
        chosen = {"loader_receivers": 4, "loader_batch_seconds": 0.01} | settings
        self.settings = LoaderSettings(sqs_queue_url="http://unused", pghost="unused", **chosen)
        self.troubles: list[str] = []

    def trouble(self, event: str, reason: str) -> None:
        self.troubles.append(f"{event}: {reason}")

    def messages(self, *names: str) -> list[int]:
        """The counters `messages_…`."""
        return [self.counts[f"messages_{name}"] for name in names]

    async def drain(self) -> None:
        await Pipeline(self.queue, self.landing, self.settings, self).run(self.stop, until_empty=True)  # type: ignore[arg-type]

    async def follow(self) -> None:
        await Pipeline(self.queue, self.landing, self.settings, self).run(self.stop, until_empty=False)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """It follows meanwhile, and is told to stop at the end."""
        task = asyncio.create_task(self.follow())
        yield
        self.stop.set()
        await task

    @contextlib.asynccontextmanager
    async def draining(self) -> AsyncIterator[None]:
        """It drains, but can land nothing before the end."""
        self.landing.open.clear()
        task = asyncio.create_task(self.drain())
        yield
        self.landing.open.set()
        await task


async def until(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds, ten seconds at most."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # any condition of a test, which sets no event
            await asyncio.sleep(0.001)
