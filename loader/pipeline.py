"""Receivers, one lander and deleters, side by side, with a bound on what is held between them.

    SQS ── receivers ──► inbox ── lander ──► committed ── deleters ──► SQS
                 └────────── held: extended until deleted ───────┘

No receiver waits for a commit or a delete, unless the bound is reached. A message is deleted only after the commit of
the transaction that landed it. Whatever goes wrong between, it stays on the queue or comes back to it, and the key of
`staging.raw_logins` makes its second landing harmless.
"""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence

from loader import sqs
from loader.errors import unavailable, unfinished
from loader.landing import OUTAGE_SECONDS, Landing
from loader.metrics import Tally
from loader.report import Report
from loader.settings import LoaderSettings
from loader.sqs import Message, Queue, backoff_seconds
from loader.wire import SqsError

# drain ends after so many empty replies in a row, and then only if the queue's own counts say zero. One empty reply is not an
# empty queue, though one second of long polling asks all of SQS's servers.
EMPTY_REPLIES = 3
DRAIN_WAIT_SECONDS = 1
# What others hold comes back when its visibility time-out passes: drain waits so long for it, within these bounds.
PATIENCE_MIN_SECONDS = 60
PATIENCE_MAX_SECONDS = 900

# Messages held for each second of the queue's visibility time-out, at most.
HELD_PER_SECOND = 500
DELETE_ATTEMPTS = 8
DEPTH_SECONDS = 5
BEAT_SECONDS = 1
# When stopping, replies that are under way arrive within this time; only idle long polling takes longer.
LAST_REPLIES_SECONDS = 2
# The end of the grace period that is kept for giving messages back.
RELEASE_SECONDS = 3

Tasks = Sequence[asyncio.Task[None]]


class Pipeline:
    """One run from a queue into staging."""

    def __init__(self, queue: Queue, landing: Landing, settings: LoaderSettings, tally: Tally, report: Report) -> None:
        """Prepare; `run` does the work."""
        self._queue = queue
        self._landing = landing
        self._settings = settings
        self._tally = tally
        self._report = report

        self._stopping = asyncio.Event()
        self._wait_seconds = sqs.LONGEST_WAIT_SECONDS
        self._last_message = self._last_answer = self._now()
        self._until_empty = False
        self._empties = 0
        self._receiving = 0
        self._loud = asyncio.Event()  # receivers may receive; a drain's rest after an empty reply until all have had their answer
        self._loud.set()
        self._quiet = asyncio.Event()  # all rest, and we hold nothing: the queue may be empty

        # By receipt handle, in the order of their deadlines.
        self._held: dict[str, Message] = {}
        # No more than can be extended in time: with 2 s, 1,000 messages already take 100 calls a second.
        extendable = max(sqs.RECEIVE_MAX, int(queue.visibility_seconds * HELD_PER_SECOND))
        self._room_messages = self._most_held = min(settings.loader_max_held_messages, extendable)
        self._room_bytes = settings.loader_max_held_bytes
        self._reply_bytes = 10_240  # what a reply may weigh: the heaviest lately
        self._room = asyncio.Event()

        self._inbox: list[Message] = []
        self._oldest_arrival = 0.0
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._committed: asyncio.Queue[list[Message]] = asyncio.Queue()

    async def run(self, stop: asyncio.Event, *, until_empty: bool) -> None:
        """Load until *stop* is set or, with *until_empty*, until nothing is left on the queue.

        At the end, however it came: receives no more, lands and deletes what it holds, and gives the rest back to the
        queue at once, all within the grace period.

        Raises:
            LoaderError: something failed that trying again cannot help, or a drain could not finish.
        """
        self._until_empty = until_empty
        if until_empty:
            self._wait_seconds = DRAIN_WAIT_SECONDS
        receivers = [asyncio.create_task(self._receive_until_stopped()) for _ in range(self._settings.loader_receivers)]
        lander = asyncio.create_task(self._land_until_stopped())
        deleters = [asyncio.create_task(self._delete_forever()) for _ in range(self._settings.loader_receivers)]
        others = [asyncio.create_task(work) for work in (self._extend_forever(), self._watch_depth(), self._beat())]
        stopped = asyncio.create_task(stop.wait())
        emptied = [asyncio.create_task(self._wait_until_empty())] if until_empty else []
        everything = [*receivers, lander, *deleters, *others, stopped, *emptied]
        try:
            done, _ = await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            failures = [failure for task in done if (failure := task.exception())]
            try:
                await self._finish(receivers, lander, deleters)
            except Exception as failure:  # noqa: BLE001  # the first failure is the cause, and what is reported
                failures.append(failure)
            if failures:
                raise failures[0]
            if until_empty and stop.is_set() and not emptied[0].done():
                raise unfinished("stopped before the queue was empty; run python -m loader drain again")
        finally:
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)

    # ── receiving ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _receive_until_stopped(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            await self._loud.wait()
            reserved_bytes = await self._take_room()
            if self._stopping.is_set():
                return
            self._receiving += 1
            try:
                messages = await sqs.receive(self._queue, self._wait_seconds)
            except SqsError as error:
                self._receiving -= 1
                self._give_room(sqs.RECEIVE_MAX, reserved_bytes)
                self._notice_quiet()
                failures += 1
                self._sqs_failed("receive failed", error)
                await asyncio.sleep(backoff_seconds(failures))
            else:
                self._receiving -= 1
                failures = 0
                self._tally.queue_ready = True
                self._last_answer = self._now()
                self._take_in(messages, reserved_bytes)

    def _take_in(self, messages: list[Message], reserved_bytes: int) -> None:
        weight = sum(sys.getsizeof(message.body) for message in messages)
        self._give_room(sqs.RECEIVE_MAX - len(messages), reserved_bytes - weight)
        self._reply_bytes = max(weight, self._reply_bytes * 99 // 100)
        if not messages:
            self._empties += 1
            if self._until_empty:
                self._loud.clear()
            self._notice_quiet()
            return
        self._go_on()
        self._last_message = self._now()
        self._tally.received += len(messages)
        if not self._inbox:
            self._oldest_arrival = self._last_message
            self._arrived.set()
        self._inbox += messages
        for message in messages:
            self._held[message.receipt_handle] = message
        self._tally.in_flight = len(self._held)
        if len(self._inbox) >= self._settings.loader_batch_messages:
            self._full.set()

    async def _take_room(self) -> int:
        """Wait until another ten messages may be held, and return the bytes set aside for them."""
        while not self._stopping.is_set() and self._held_or_expected() and not self._has_room():
            self._full.set()
            self._room.clear()
            await self._room.wait()
        self._room_messages -= sqs.RECEIVE_MAX
        self._room_bytes -= self._reply_bytes
        return self._reply_bytes

    def _has_room(self) -> bool:
        return self._room_messages >= sqs.RECEIVE_MAX and self._room_bytes >= self._reply_bytes

    def _held_or_expected(self) -> bool:
        """Whether any room is taken; if none is, a reply may be heavier than all of it."""
        return self._room_messages < self._most_held

    def _give_room(self, messages: int, weight: int) -> None:
        self._room_messages += messages
        self._room_bytes += weight
        self._room.set()

    # ── landing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _land_until_stopped(self) -> None:
        while batch := await self._next_batch():
            started = self._now()
            landed = await self._landing.land(batch)
            seconds = self._now() - started
            self._tally.database_ready = True
            self._tally.landed += landed
            self._tally.duplicates += len(batch) - landed
            self._tally.batches += 1
            self._tally.oldest_sent_ms = min(message.sent_ms for message in batch)
            self._tally.batch_messages.observe(len(batch))
            self._tally.commit_seconds.observe(seconds)
            for chunk in in_tens(batch):
                self._committed.put_nowait(chunk)
            self._report.batch(
                self._tally,
                landed=landed,
                duplicates=len(batch) - landed,
                commit_seconds=round(seconds, 4),
                oldest_age_seconds=round(self._tally.oldest_age_seconds, 3),
            )

    async def _next_batch(self) -> list[Message]:
        """The messages to land next, by size or age, whichever comes first; none when there will be no more."""
        while not self._inbox and not self._stopping.is_set():
            self._arrived.clear()
            await self._arrived.wait()
        young = self._oldest_arrival + self._settings.loader_batch_seconds - self._now()
        size = self._settings.loader_batch_messages
        # Where receivers wait for room, no batch can grow.
        if young > 0 and len(self._inbox) < size and self._has_room() and not self._stopping.is_set():
            self._full.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(young):
                    await self._full.wait()
        batch, self._inbox = self._inbox[:size], self._inbox[size:]
        self._oldest_arrival = self._now()
        return batch

    # ── deleting ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _delete_forever(self) -> None:
        while True:
            chunk = await self._committed.get()
            await self._delete(chunk)
            self._committed.task_done()

    async def _delete(self, chunk: Sequence[Message]) -> None:
        """Delete *chunk*, which has landed; what cannot be deleted comes back, lands as a duplicate, and is deleted then."""
        for failures in range(1, DELETE_ATTEMPTS + 1):
            now = self._now()
            expired = [message for message in chunk if message.deadline <= now]
            if expired:
                self._tally.expired += len(expired)
                self._let_go(expired)
                chunk = [message for message in chunk if message.deadline > now]
                if not chunk:
                    return
            try:
                refused = await sqs.delete(self._queue, chunk)
            except SqsError as error:
                self._sqs_failed("delete failed", error)
                refused = {error.code: list(chunk)}
            failed: list[Message] = []
            for code, messages in refused.items():
                if code in sqs.EXPIRED_HANDLE_CODES:
                    self._tally.expired += len(messages)
                    self._let_go(messages)
                else:
                    self._tally.delete_failures += len(messages)
                    failed += messages
            left = {message.receipt_handle for messages in refused.values() for message in messages}
            deleted = [message for message in chunk if message.receipt_handle not in left] if left else chunk
            self._tally.deleted += len(deleted)
            self._let_go(deleted)
            if not failed:
                return
            chunk = failed
            if failures < DELETE_ATTEMPTS:
                await asyncio.sleep(backoff_seconds(failures))
        self._let_go(chunk)

    def _let_go(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._held.pop(message.receipt_handle, None)
        self._tally.in_flight = len(self._held)
        self._give_room(len(messages), sum(sys.getsizeof(message.body) for message in messages))
        self._notice_quiet()

    # ── holding ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _extend_forever(self) -> None:
        """Keep what is held from others while it waits for a slow commit or delete: extend at half time."""
        margin = self._queue.visibility_seconds / 2
        while True:
            now = self._now()
            due: list[Message] = []
            for message in self._held.values():
                if message.deadline - now > margin:
                    break
                if message.deadline > now:
                    due.append(message)
            await self._in_tens(due, self._extend)
            first = next((message.deadline for message in self._held.values() if message.deadline > now), now + margin * 2)
            await asyncio.sleep(min(margin, max(first - margin - self._now(), margin / 20)))

    async def _extend(self, messages: Sequence[Message]) -> None:
        asked = self._now()
        try:
            refused = await sqs.change_visibility(self._queue, messages, self._queue.visibility_seconds)
        except SqsError as error:
            self._sqs_failed("extending the visibility failed", error)
            return
        for code, gone in refused.items():
            for message in gone:
                if code in sqs.EXPIRED_HANDLE_CODES:
                    message.deadline = 0.0
        left = {message.receipt_handle for gone in refused.values() for message in gone}
        for message in messages:
            if message.receipt_handle in self._held and message.receipt_handle not in left:
                message.deadline = asked + self._queue.visibility_seconds
                self._held[message.receipt_handle] = self._held.pop(message.receipt_handle)  # to the end: the order is by deadline

    async def _release(self, messages: Sequence[Message]) -> None:
        try:
            refused = await sqs.change_visibility(self._queue, messages, 0)
        except SqsError:
            return  # they come back by themselves when their visibility time-out passes
        self._tally.released += len(messages) - sum(map(len, refused.values()))
        self._let_go(messages)

    async def _in_tens(self, messages: Sequence[Message], action: Callable[[Sequence[Message]], Awaitable[None]]) -> None:
        """Run *action* on *messages*, ten at a time, with as many calls under way as there are receivers."""
        chunks = list(in_tens(messages))
        for start in range(0, len(chunks), self._settings.loader_receivers):
            await asyncio.gather(*map(action, chunks[start : start + self._settings.loader_receivers]))

    # ── watching ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _notice_quiet(self) -> None:
        """When all receivers of a drain rest: have them ask again, or have it decided whether the queue is empty.

        A drain that left while a receiver was still asking would leave that call behind on the server, which may hide a message for it.
        """
        if self._receiving or self._loud.is_set():
            return
        if self._empties < EMPTY_REPLIES:
            self._loud.set()
        elif not self._held:
            self._quiet.set()

    def _go_on(self) -> None:
        self._empties = 0
        self._quiet.clear()
        self._loud.set()

    async def _wait_until_empty(self) -> None:
        """Return when the queue is empty: nothing comes, we hold nothing, and SQS counts nothing.

        Raises:
            LoaderError: messages stay that nobody hands us, such as those that another consumer holds.
        """
        patience = min(max(self._queue.visibility_seconds, PATIENCE_MIN_SECONDS), PATIENCE_MAX_SECONDS)
        while True:
            await self._quiet.wait()
            try:
                depth = self._tally.depth = await sqs.depth(self._queue)
            except SqsError as error:
                self._sqs_failed("counting the queue failed", error)
                await asyncio.sleep(backoff_seconds(1))
                continue
            left = depth.visible + depth.in_flight + depth.delayed
            if not self._quiet.is_set():
                continue
            if not left:
                return
            if self._now() - self._last_message > patience:
                raise unfinished(
                    f"{left} messages are left that the queue does not hand out ({depth.in_flight} in flight with another consumer, "
                    f"{depth.delayed} delayed); run python -m loader drain again later"
                )
            self._go_on()

    async def _watch_depth(self) -> None:
        while True:
            try:
                self._tally.depth = await sqs.depth(self._queue)
            except SqsError as error:
                self._sqs_failed("counting the queue failed", error)
            await asyncio.sleep(DEPTH_SECONDS)

    async def _beat(self) -> None:
        while True:
            self._tally.beat = self._now()
            await asyncio.sleep(BEAT_SECONDS)

    def _sqs_failed(self, event: str, error: SqsError) -> None:
        """Count *error* and tell it; raise instead if trying again cannot help."""
        self._tally.sqs_errors += 1
        if fatal := sqs.fatal(error, self._queue.url):
            raise fatal
        if error.code == "Unreachable":
            self._tally.queue_ready = False
        if self._until_empty and self._now() - self._last_answer > OUTAGE_SECONDS:
            raise unavailable(
                f"queue {self._queue.url} did not answer for {OUTAGE_SECONDS} s ({error}); run python -m loader drain again later"
            )
        self._report.trouble(f"{event}, trying again", str(error))

    # ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _finish(self, receivers: Tasks, lander: asyncio.Task[None], deleters: Tasks) -> None:
        deadline = self._now() + self._settings.loader_grace_seconds - RELEASE_SECONDS
        self._stopping.set()
        self._loud.set()
        self._room.set()
        self._full.set()
        self._arrived.set()
        await asyncio.wait(receivers, timeout=LAST_REPLIES_SECONDS)
        for receiver in receivers:
            receiver.cancel()
        self._arrived.set()
        await asyncio.wait([lander], timeout=max(0, deadline - self._now()))
        deletes = asyncio.create_task(self._committed.join())
        # A deleter only ends by an error that trying again cannot help; then the others' deletes would not end either.
        await asyncio.wait([deletes, *deleters], timeout=max(0, deadline - self._now()), return_when=asyncio.FIRST_COMPLETED)
        deletes.cancel()
        lander.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._in_tens(list(self._held.values()), self._release)
        if lander.done() and not lander.cancelled() and (failure := lander.exception()):
            raise failure

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def in_tens(messages: Sequence[Message]) -> Iterable[list[Message]]:
    """*messages* in the portions that one call to SQS takes."""
    return (list(messages[start : start + sqs.RECEIVE_MAX]) for start in range(0, len(messages), sqs.RECEIVE_MAX))
