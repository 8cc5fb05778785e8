"""Four parts side by side, which hand messages on through queues.

    SQS ──► receive ──► received ──► land ──► committed ──► delete ──► SQS
               └──────── leases, extended by keep_leases ─────┘

A message is deleted only after the commit of the transaction that landed it. Whatever goes wrong before that, it stays on the queue or
comes back to it, and the key of `staging.raw_logins` makes a second landing harmless.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol

from loader import sqs
from loader.errors import SqsError, TemporaryError, unavailable, unfinished
from loader.held import Budget, DrainEnd, Leases, Outage, backoff_seconds
from loader.metrics import Tally
from loader.report import Report
from loader.settings import LoaderSettings
from loader.sqs import Depth, Failures, Message

LONGEST_WAIT_SECONDS = 20
# drain ends after so many empty answers in a row, and then only if the queue's own counts say zero. One empty answer is not an
# empty queue, though one second of long polling asks all of SQS's servers.
EMPTY_ANSWERS = 3
DRAIN_WAIT_SECONDS = 1
PATIENCE_SECONDS = (60.0, 900.0)
# How long a server may fail before drain gives up. follow never does.
OUTAGE_SECONDS = 300
# How long a message is kept from others while PostgreSQL or the deletes fail; then it is given back, and no more are received.
KEEP_SECONDS = 180
# Messages held for each second of visibility time-out, at most: with 2 s, extending 1,000 already takes 100 calls a second.
HELD_PER_SECOND = 500
IDLE_COMMIT_SECONDS = 20  # an idle loader commits nothing, so it asks PostgreSQL whether it could
DEPTH_SECONDS = (60, 5)  # follow; drain, whose bar shows it
BEAT_SECONDS = 1
# When stopping, answers that are under way arrive within this time; only idle long polling takes longer.
LAST_ANSWERS_SECONDS = 2
RELEASE_SECONDS = 3  # the end of the grace period that is kept for giving messages back

Tasks = Sequence[asyncio.Task[None]]


class Queue(Protocol):
    """See `loader.sqs.Queue`."""

    url: str
    visibility_seconds: int

    async def receive(self, wait_seconds: int) -> tuple[list[Message], list[str]]: ...  # noqa: D102
    async def delete(self, handles: Sequence[str]) -> Failures: ...  # noqa: D102
    async def hide(self, handles: Sequence[str], seconds: int) -> Failures: ...  # noqa: D102
    async def depth(self) -> Depth: ...  # noqa: D102


class Landing(Protocol):
    """See `loader.landing.Landing`."""

    is_durable: bool

    async def land(self, batch: Sequence[Message]) -> int: ...  # noqa: D102


class Pipeline:
    """One run from a queue into staging."""

    def __init__(self, queue: Queue, landing: Landing, settings: LoaderSettings, tally: Tally, report: Report) -> None:
        """Prepare; `run` does the work."""
        self._queue, self._landing, self._settings, self._tally, self._report = queue, landing, settings, tally, report
        self._received: asyncio.Queue[list[Message]] = asyncio.Queue()
        self._committed: asyncio.Queue[list[str]] = asyncio.Queue()
        self._leases = Leases(queue.visibility_seconds, KEEP_SECONDS)
        extendable = max(sqs.RECEIVE_MAX, queue.visibility_seconds * HELD_PER_SECOND)
        self._budget = Budget(min(settings.loader_max_held_messages, extendable), settings.loader_max_held_bytes, sqs.RECEIVE_MAX)
        self._end = DrainEnd(PATIENCE_SECONDS, self._now())
        self._outages = {"receive": Outage(), "land": Outage(), "delete": Outage()}
        self._until_empty = self._stopping = self._has_received = False
        # All receivers may poll while answers bring messages, otherwise one: the scout.
        self._busy = False
        self._polling = 0
        self._asking: set[asyncio.Task[None] | None] = set()
        self._turn = asyncio.Event()

    async def run(self, stop: asyncio.Event, *, until_empty: bool) -> None:
        """Load until *stop* is set or, with *until_empty*, until nothing is left on the queue.

        At the end, however it came, it receives no more, lands and deletes what it holds, and gives the rest back to the queue, all
        within the grace period.

        Raises:
            LoaderError: something failed that trying again cannot help, or a drain could not finish.
        """
        self._until_empty = until_empty
        count, emptied = range(self._settings.loader_receivers), asyncio.Event()
        receivers = [asyncio.create_task(self._receive(emptied)) for _ in count]
        lander = asyncio.create_task(self._land())
        deleters = [asyncio.create_task(self._delete()) for _ in count]
        others = [asyncio.create_task(work) for work in (self._keep_leases(), self._watch_depth(), self._beat())]
        ends = [asyncio.create_task(event.wait()) for event in (stop, emptied)]
        everything: list[asyncio.Task[Any]] = [*receivers, lander, *deleters, *others, *ends]
        try:
            await asyncio.wait([lander, *deleters, *others, *ends, *receivers], return_when=asyncio.FIRST_COMPLETED)
            failed = [failure for task in everything if task.done() and (failure := task.exception())]
            await self._finish(receivers, lander, deleters)
            failed += [failure for task in everything if task.done() and not task.cancelled() and (failure := task.exception())]
            if failed:
                raise failed[0]  # the first is the cause
            if until_empty and not emptied.is_set():
                raise unfinished("stopped before the queue was empty; run python -m loader drain again")
        finally:
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)

    # ── receive ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _receive(self, emptied: asyncio.Event) -> None:
        failures = 0
        while not self._stopping:
            while not self._may_poll():
                self._turn.clear()
                await self._turn.wait()
            self._polling += 1
            try:
                failures = 0 if await self._poll() else failures + 1
                if failures:
                    await asyncio.sleep(backoff_seconds(failures))
                # The last one to ask decides: another's answer may still bring messages.
                is_last = self._until_empty and self._polling == 1 and not self._leases
                if is_last and self._end.empty_answers >= EMPTY_ANSWERS and await self._is_empty():
                    emptied.set()
                    self._stopping = True
            finally:
                self._polling -= 1
                self._turn.set()

    def _may_poll(self) -> bool:
        """Not without room, nor while messages cannot be landed or deleted; and without work only one at a time."""
        blocked = not self._budget.has_room() or self._outages["land"].failures or (self._outages["delete"].failures and self._leases)
        return not blocked and (self._busy or not self._polling)

    async def _poll(self) -> bool:
        """Take in one answer; False where SQS gave none."""
        reserved_bytes = self._budget.reserve()
        messages: list[Message] = []
        self._asking.add(me := asyncio.current_task())
        try:
            messages, damaged = await self._queue.receive(DRAIN_WAIT_SECONDS if self._until_empty else LONGEST_WAIT_SECONDS)
        except SqsError as error:
            self._busy = False
            self._sqs_failed("receive", error)
            return False
        finally:
            self._asking.discard(me)
            self._budget.settle(reserved_bytes, len(messages), weight(messages))
        self._has_received = True
        self._outages["receive"].over()
        now = self._tally.received_at = self._now()
        self._busy = bool(messages or damaged)
        for what in damaged:
            self._tally.messages_damaged += 1
            self._report.trouble("message damaged and left on the queue", what)
        if not self._busy:
            self._end.empty_answers += 1
        if messages:
            self._turn.set()
            self._end.messages(now)
            self._leases.take([message.receipt_handle for message in messages], now)
            self._tally.messages_received += len(messages)
            self._tally.messages_redelivered += sum(message.receives > 1 for message in messages)
            self._tally.messages_in_flight = len(self._leases)
            self._received.put_nowait(messages)
        return True

    async def _is_empty(self) -> bool:
        """Whether SQS counts nothing.

        Raises:
            LoaderError: messages stay that nobody hands us, such as those that another consumer holds.
        """
        try:
            depth = self._tally.depth = await self._queue.depth()
        except SqsError as error:
            self._sqs_failed("count", error)
            return False
        self._end.empty_answers = 0
        left = depth.visible + depth.in_flight + depth.delayed
        if left and self._end.impatient(depth.visibility_seconds, self._now()):
            raise unfinished(
                f"{left} messages are left that the queue does not hand out ({depth.in_flight} in flight with another consumer, "
                f"{depth.delayed} delayed); run python -m loader drain again later"
            )
        return not left

    # ── land ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _land(self) -> None:
        size, rest = self._settings.loader_batch_messages, list[Message]()
        while True:
            batch = await self._next_batch(rest, size)
            batch, rest = batch[:size], batch[size:]
            if not batch and self._stopping:
                return
            if not batch and self._now() - self._tally.committed_at < IDLE_COMMIT_SECONDS:
                continue
            oldest_ms, started = min((message.sent_ms for message in batch), default=None), self._now()
            landed = await self._commit(batch)
            if not batch:
                continue
            handles = [message.receipt_handle for message in batch]
            self._budget.give_back(0, weight(batch))
            self._turn.set()
            del batch  # from here on the handles are enough
            for chunk in in_tens(handles):
                self._committed.put_nowait(chunk)
            self._tally.batch(landed, len(handles) - landed, self._now() - started, oldest_ms)
            self._report.batch(self._tally, landed, len(handles) - landed, self._now() - started)

    async def _next_batch(self, batch: list[Message], size: int) -> list[Message]:
        """*batch* and what arrived, by number or age, whichever comes first; none when idle for long or when there will be no more."""
        deadline = self._now() + (self._settings.loader_batch_seconds if batch else IDLE_COMMIT_SECONDS)
        with contextlib.suppress(TimeoutError):
            while len(batch) < size and not (self._stopping and self._received.empty()):
                if self._received.empty():
                    async with asyncio.timeout_at(deadline):
                        arrived = await self._received.get()
                else:
                    arrived = self._received.get_nowait()
                if arrived and not batch:
                    deadline = self._now() + self._settings.loader_batch_seconds
                batch += arrived
                if batch and not self._budget.has_room() and self._received.empty():
                    break  # receivers wait for it to land
        return batch

    async def _commit(self, batch: list[Message]) -> int:
        """Land *batch*, however often it takes, and return how many of its messages are new; an empty one only asks whether it could.

        Where PostgreSQL is away for long, the messages are given back to the queue, and *batch* is empty afterwards.
        """
        outage = self._outages["land"]
        while True:
            try:
                landed = await self._landing.land(batch)
            except TemporaryError as error:
                away = outage.failed(self._now())
                self._tally.database_errors += 1
                if self._until_empty and away > OUTAGE_SECONDS:
                    raise unavailable(f"{error}, for {OUTAGE_SECONDS} s now; run python -m loader drain again later") from None
                self._report.trouble("PostgreSQL failed, trying again", str(error))
                if not self._until_empty and away > KEEP_SECONDS:
                    while not self._received.empty():
                        batch += self._received.get_nowait()
                    self._budget.give_back(0, weight(batch))
                    await self._in_tens([message.receipt_handle for message in batch], self._release)
                    batch.clear()
                await asyncio.sleep(backoff_seconds(outage.failures))
            else:
                outage.over()
                self._turn.set()
                self._tally.committed_at = self._now()
                self._tally.durability_unsafe = int(not self._landing.is_durable)
                return landed

    # ── delete ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _delete(self) -> None:
        while True:
            handles, failures = await self._committed.get(), 0
            # What cannot be deleted while it is ours comes again, lands as a duplicate, and is deleted then.
            while handles := self._still_ours(handles):
                if failures:
                    await asyncio.sleep(backoff_seconds(failures))
                handles, failures = await self._delete_once(handles), failures + 1
            self._committed.task_done()

    async def _delete_once(self, handles: list[str]) -> list[str]:
        """Delete up to ten messages that have landed, and return those to try again."""
        try:
            failed = await self._queue.delete(handles)
        except SqsError as error:
            self._tally.message_delete_failures += len(handles)
            self._sqs_failed("delete", error)
            return handles
        if self._outages["delete"].failures:
            self._outages["delete"].over()
            self._turn.set()
        again = [handle for code, refused in failed.items() if code not in sqs.GONE_CODES for handle in refused]
        gone = [handle for code, refused in failed.items() if code in sqs.GONE_CODES for handle in refused]
        left = {*again, *gone}
        self._tally.message_delete_failures += len(again)
        self._tally.message_handles_expired += len(gone)
        self._tally.messages_deleted += len(handles) - len(left)
        self._let_go([handle for handle in handles if handle not in again] if again else handles)
        return again

    def _still_ours(self, handles: list[str]) -> list[str]:
        lapsed = self._leases.lapsed(handles, self._now())
        if not lapsed:
            return handles
        self._tally.message_handles_expired += len(lapsed)
        self._let_go(lapsed)
        return [handle for handle in handles if handle not in lapsed]

    def _let_go(self, handles: Sequence[str]) -> None:
        self._leases.drop(handles)
        self._tally.messages_in_flight = len(self._leases)
        self._budget.give_back(len(handles), 0)
        self._turn.set()

    # ── keep leases ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep_leases(self) -> None:
        """Keep what is held from others while a commit or a delete is slow: extend at half time."""
        failures = 0
        while True:
            extended = await self._in_tens(self._leases.due(self._now()), self._extend)
            failures = 0 if all(extended) else failures + 1
            again = backoff_seconds(failures, self._leases.seconds / 40) if failures else self._leases.seconds_to_next(self._now())
            await asyncio.sleep(again)

    async def _extend(self, handles: list[str]) -> bool:
        asked_at = self._now()
        try:
            failed = await self._queue.hide(handles, self._queue.visibility_seconds)
        except SqsError as error:
            self._sqs_failed("extend", error)
            return False
        left = {handle for refused in failed.values() for handle in refused}
        self._leases.extend([handle for handle in handles if handle not in left], asked_at)
        for code in sqs.GONE_CODES & failed.keys():
            self._leases.lapse(failed[code])
        return failed.keys() <= sqs.GONE_CODES

    async def _release(self, handles: list[str]) -> bool:
        try:
            failed = await self._queue.hide(handles, 0)
        except SqsError:
            failed = {"": handles}  # they come back by themselves when their visibility time-out ends
        self._tally.messages_released += len(handles) - sum(map(len, failed.values()))
        self._let_go(handles)
        return True

    async def _in_tens(self, handles: Sequence[str], action: Callable[[list[str]], Awaitable[bool]]) -> list[bool]:
        """Run *action* on *handles*, ten at a time, with as many calls under way as there are receivers."""
        chunks, done, step = list(in_tens(handles)), list[bool](), self._settings.loader_receivers
        for start in range(0, len(chunks), step):
            done += await asyncio.gather(*map(action, chunks[start : start + step]))
        return done

    # ── watch and stop ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _watch_depth(self) -> None:
        while True:
            try:
                self._tally.depth = await self._queue.depth()
            except SqsError as error:
                self._sqs_failed("count", error)
            await asyncio.sleep(DEPTH_SECONDS[self._until_empty])

    async def _beat(self) -> None:
        while True:
            self._tally.beat_at = self._now()
            await asyncio.sleep(BEAT_SECONDS)

    def _sqs_failed(self, what: str, error: SqsError) -> None:
        """Count *error* and tell it; raise instead if trying again cannot help.

        Once messages have come, a refusal may pass, as when credentials are renewed. Not so for deletes: who may receive and not delete
        would have all messages received over and over, until they are dead letters.
        """
        self._tally.sqs_errors += 1
        if (not self._has_received or what == "delete") and (fatal := sqs.fatal(error, self._queue.url)):
            raise fatal
        if what in self._outages and self._outages[what].failed(self._now()) > OUTAGE_SECONDS and self._until_empty:
            raise unavailable(
                f"queue {self._queue.url}: {what} failed for {OUTAGE_SECONDS} s ({error}); run python -m loader drain again later"
            )
        self._report.trouble(f"{what} failed, trying again", str(error))

    async def _finish(self, receivers: Tasks, lander: asyncio.Task[None], deleters: Tasks) -> None:
        deadline = self._now() + self._settings.loader_grace_seconds - RELEASE_SECONDS
        self._stopping = True
        for receiver in set(receivers) - self._asking:
            receiver.cancel()
        await asyncio.wait(receivers, timeout=LAST_ANSWERS_SECONDS)
        for receiver in receivers:
            receiver.cancel()
        self._received.put_nowait([])
        await asyncio.wait([lander], timeout=max(0, deadline - self._now()))
        deletes = asyncio.create_task(self._committed.join())
        # A deleter only ends by an error that trying again cannot help; then the others' deletes would not end either.
        await asyncio.wait([deletes, *deleters], timeout=max(0, deadline - self._now()), return_when=asyncio.FIRST_COMPLETED)
        for task in (deletes, lander):
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._in_tens(self._leases.all(), self._release)

    def _now(self) -> float:
        return time.monotonic()


def weight(messages: Sequence[Message]) -> int:
    """The bytes that the bodies and attributes of *messages* take."""
    return sum(sys.getsizeof(message.body) + sys.getsizeof(message.attributes) for message in messages)


def in_tens(handles: Sequence[str]) -> Iterator[list[str]]:
    """*handles* in the portions that one call to SQS takes."""
    return (list(handles[start : start + sqs.RECEIVE_MAX]) for start in range(0, len(handles), sqs.RECEIVE_MAX))
