"""A queue and a database in memory, for the loader's parts without a server."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loader.errors import SqsError
from loader.pipeline import Pipeline
from loader.report import Report
from loader.settings import LoaderSettings
from loader.sqs import Depth, Failures, Message

SENT_MS = 1_790_000_000_000


@dataclass
class MemoryQueue:
    """A queue with visibility time-outs by the loop's clock; *failures* are raised by the next calls of a kind."""

    bodies: dict[str, str] = field(default_factory=dict)
    url: str = "memory:login-queue"
    visibility_seconds: int = 60
    hidden_until: dict[str, float] = field(default_factory=dict)
    receives: dict[str, int] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    failures: dict[str, list[SqsError]] = field(default_factory=dict)
    asking: int = 0
    most_asking: int = 0
    twice: bool = False
    wait_seconds: float = 0.02
    others: int = 0  # messages that another consumer holds
    undeletable: bool = False
    max_receives: int = 1_000  # a message that was received so often goes to `dead`
    dead: dict[str, str] = field(default_factory=dict)

    def _count(self, call: str) -> None:
        self.calls[call] = self.calls.get(call, 0) + 1
        if failures := self.failures.get(call):
            raise failures.pop(0)

    def _visible(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        for message_id in [each for each, receives in self.receives.items() if receives >= self.max_receives and each in self.bodies]:
            if self.hidden_until[message_id] <= now:
                self.dead[message_id] = self.bodies.pop(message_id)
        return [message_id for message_id in self.bodies if self.hidden_until.get(message_id, 0.0) <= now]

    async def receive(self, wait_seconds: int) -> tuple[list[Message], list[str]]:
        del wait_seconds  # `wait_seconds` of this queue is shorter
        self.asking += 1
        self.most_asking = max(self.most_asking, self.asking)
        try:
            await asyncio.sleep(0)
            self._count("receive")
            if not self._visible():
                await asyncio.sleep(self.wait_seconds)  # long polling
            found: list[Message] = []
            for message_id in self._visible()[:10]:
                self.hidden_until[message_id] = asyncio.get_running_loop().time() + self.visibility_seconds
                for _ in range(1 + self.twice):
                    self.receives[message_id] = self.receives.get(message_id, 0) + 1
                    handle = f"{message_id}/{self.receives[message_id]}"
                    found.append(Message(message_id, SENT_MS, self.bodies[message_id], "{}", handle, self.receives[message_id]))
            return found, []
        finally:
            self.asking -= 1

    async def delete(self, handles: Sequence[str]) -> Failures:
        await asyncio.sleep(0)
        self._count("delete")
        if self.undeletable:
            return {"InternalError": list(handles)}
        for handle in handles:
            message_id, _, receive = handle.partition("/")
            if self.receives[message_id] == int(receive) and self.bodies.pop(message_id, None) is not None:
                self.deleted.append(message_id)
        return {}

    async def hide(self, handles: Sequence[str], seconds: int) -> Failures:
        await asyncio.sleep(0)
        self._count("give back" if seconds == 0 else "extend")
        for handle in handles:
            self.hidden_until[handle.partition("/")[0]] = asyncio.get_running_loop().time() + seconds
        return {}

    async def depth(self) -> Depth:
        self._count("depth")
        visible = len(self._visible())
        return Depth(visible, len(self.bodies) - visible + self.others, 0)


@dataclass
class MemoryLanding:
    """Keeps bodies by message id; *failures* are raised by the next attempts, *open* holds them up."""

    rows: dict[str, str] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    is_durable: bool = True
    batches: list[int] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def land(self, batch: Sequence[Message]) -> int:
        await self.open.wait()
        if self.failures:
            raise self.failures.pop(0)
        before = len(self.rows)
        for message in batch:
            self.rows.setdefault(message.message_id, message.body)
        if batch:
            self.batches.append(len(batch))
        return len(self.rows) - before


class MemoryReport(Report):
    """Keeps what was reported."""

    def __init__(self) -> None:
        super().__init__()
        self.troubles: list[str] = []

    def trouble(self, event: str, reason: str) -> None:
        self.troubles.append(f"{event}: {reason}")


class Run:
    """One pipeline over a queue and a database in memory."""

    def __init__(self, messages: int = 0, **settings: Any) -> None:
        self.queue = MemoryQueue({f"m{number}": f"body {number}" for number in range(messages)})
        self.landing, self.report = MemoryLanding(), MemoryReport()
        self.stop = asyncio.Event()
        chosen = {"loader_receivers": 4, "loader_batch_seconds": 0.01} | settings
        self.settings = LoaderSettings(sqs_queue_url="http://unused", pghost="unused", **chosen)

    async def __call__(self, *, until_empty: bool = True) -> None:
        await Pipeline(self.queue, self.landing, self.settings, self.report).run(self.stop, until_empty=until_empty)  # type: ignore[arg-type]
