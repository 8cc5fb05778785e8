"""Four parts side by side, which hand messages on through queues.

    SQS ──► receive ──► received ──► land ──► committed ──► delete ──► SQS
               └──────── leases, extended by keep_leases ─────┘

A message is deleted only after the commit of the transaction that landed it. Whatever goes wrong before that, it stays on the queue or
comes back to it, and the key of `staging.raw_logins` makes a second landing harmless.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic
from typing import Any, TypeVar

from loader.errors import TemporaryError, backoff_seconds, unavailable, unfinished
from loader.held import Held, weight
from loader.landing import Landing
from loader.report import Report
from loader.settings import LoaderSettings
from loader.sqs import GONE_CODES, RECEIVE_MAX, Message, Queue, end_if_fatal

# Pairs are for follow and for drain.
WAIT_SECONDS = (20, 1)  # for which a receive waits for a message; one second already asks all of SQS's servers
DEPTH_SECONDS = (60, 5)
# drain ends after so many empty answers in a row, and then only if the queue's own counts say zero; it waits so long for what others hold
EMPTY_ANSWERS, PATIENCE_SECONDS = 3, 900
OUTAGE_SECONDS = 300  # how long a server may fail before drain gives up; follow never does
KEEP_SECONDS = 180  # how long a message is kept from others while PostgreSQL or the deletes fail; then it is given back
IDLE_COMMIT_SECONDS = 20  # an idle loader commits nothing, so it asks PostgreSQL whether it could
# Of the grace period: for answers that are under way (idle long polling takes longer), and, at its end, for giving messages back.
LAST_ANSWERS_SECONDS, RELEASE_SECONDS = 2, 3
POSTGRESQL = "PostgreSQL"

Answer = TypeVar("Answer")


class Pipeline:
    """One run from a queue into staging."""

    def __init__(self, queue: Queue, landing: Landing, settings: LoaderSettings, report: Report) -> None:
        """Prepare; `run` does the work."""
        self._queue, self._landing, self._settings, self._report = queue, landing, settings, report
        self._received: asyncio.Queue[list[Message]] = asyncio.Queue()
        self._committed: asyncio.Queue[list[str]] = asyncio.Queue()  # receipt handles. In both, an empty list is the end
        bounds = settings.loader_max_held_messages, settings.loader_max_held_bytes
        self._held = report.held = Held(queue.visibility_seconds, KEEP_SECONDS, *bounds)
        self._failing: dict[str, tuple[int, float]] = {}  # how often each kind of call has failed in a row, and since when
        self._until_empty = self._stopping = self._has_received = self._has_work = False
        self._polling, self._turn = 0, asyncio.Event()  # receives under way; something changed that receivers wait for
        self._empty_answers, self._last_message = 0, monotonic()

    async def run(self, stop: asyncio.Event, *, until_empty: bool) -> None:
        """Load until *stop* is set or, with *until_empty*, until nothing is left on the queue; or raise a LoaderError.

        At the end, however it came, it receives no more, lands and deletes what it holds, and gives the rest back to the queue, all
        within the grace period.
        """
        self._until_empty = until_empty
        start, count = asyncio.create_task, range(self._settings.loader_receivers)
        receivers, writers = [start(self._receive()) for _ in count], [start(self._land()), *(start(self._delete()) for _ in count)]
        tasks: list[asyncio.Task[Any]] = [*writers, *receivers, *map(start, (self._keep_leases(), self._watch_depth(), stop.wait()))]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            is_empty, self._stopping = self._stopping, True
            deadline = monotonic() + self._settings.loader_grace_seconds - RELEASE_SECONDS
            self._turn.set()
            await asyncio.wait(receivers, timeout=LAST_ANSWERS_SECONDS)
            self._received.put_nowait([])
            # A writer that fails ends by an error that trying again cannot help; then the others would not end either.
            await asyncio.wait(writers, timeout=max(0, deadline - monotonic()), return_when=asyncio.FIRST_EXCEPTION)
            for task in (*receivers, *writers):
                task.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._in_tens(list(self._held), self._release)
            for task in (*ended, *tasks):  # the first failure is the cause
                if task.done() and not task.cancelled():
                    task.result()
            if until_empty and not is_empty:
                raise unfinished("stopped before the queue was empty; run python -m loader drain again")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self) -> None:
        while not self._stopping:
            if self._may_poll():
                self._polling += 1
                try:
                    await self._poll()
                finally:
                    self._polling -= 1
                    self._turn.set()
            else:
                self._turn.clear()
                await self._turn.wait()

    def _may_poll(self) -> bool:
        """Not without room, nor while messages cannot be landed or deleted; and without work only one at a time: the scout."""
        is_blocked = POSTGRESQL in self._failing or ("delete" in self._failing and self._held)
        return not is_blocked and self._held.has_room(self._polling) and (self._has_work or not self._polling)

    async def _poll(self) -> None:
        answer = await self._ask("receive", self._queue.receive(WAIT_SECONDS[self._until_empty]))
        if answer is None:
            self._has_work = False
            await asyncio.sleep(backoff_seconds(self._failing["receive"][0]))
            return
        (messages, damaged), now = answer, monotonic()
        self._has_received, self._has_work, self._report.received_at = True, bool(messages or damaged), now
        self._held.take(messages, now)
        for what in damaged:
            self._report.add(messages_damaged=1)
            self._report.trouble("message damaged and left on the queue", what)
        if messages:
            self._report.add(messages_received=len(messages), messages_redelivered=sum(message.receives > 1 for message in messages))
            self._received.put_nowait(messages)
        if self._has_work:
            self._empty_answers, self._last_message = 0, now
        else:
            self._empty_answers += 1
            # The last one to ask decides: another's answer may still bring messages.
            is_last = self._until_empty and self._polling == 1 and not self._held
            if is_last and self._empty_answers >= EMPTY_ANSWERS and await self._is_empty():
                self._stopping = True

    async def _is_empty(self) -> bool:
        """Whether SQS counts nothing; raises a LoaderError where messages stay that nobody hands us, such as those of another consumer."""
        if (depth := await self._ask("count", self._queue.depth())) is None:
            return False
        self._report.depth(depth)
        self._empty_answers = 0
        if any(depth) and monotonic() - self._last_message > PATIENCE_SECONDS:
            of_others = f"{depth.in_flight} in flight with another consumer, {depth.delayed} delayed"
            left = f"{sum(depth)} messages are left that the queue does not hand out ({of_others})"
            raise unfinished(f"{left}; run python -m loader drain again later")
        return not any(depth)

    async def _land(self) -> None:
        size, waiting, is_end = self._settings.loader_batch_messages, list[Message](), False
        while waiting or not is_end:
            is_end = is_end or await self._fill(waiting, size)
            batch, waiting = waiting[:size], waiting[size:]
            oldest_ms, started = min((message.sent_ms for message in batch), default=0), monotonic()
            landed = 0 if is_end and not batch else await self._commit(batch)
            handles = [message.receipt_handle for message in batch]
            self._held.bytes -= weight(batch)
            del batch  # from here on the handles are enough
            self._turn.set()
            for portion in in_tens(handles):
                self._committed.put_nowait(portion)
            if handles:
                self._report.batch(landed, len(handles) - landed, monotonic() - started, oldest_ms)
        for _ in range(self._settings.loader_receivers):
            self._committed.put_nowait([])

    async def _fill(self, batch: list[Message], size: int) -> bool:
        """Add to *batch* until it is large or old enough, whichever comes first; nothing when idle for long. True at the end of all."""
        seconds = self._settings.loader_batch_seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds if batch else IDLE_COMMIT_SECONDS) as limit:
                while len(batch) < size and not (batch and self._received.empty() and not self._held.has_room(self._polling)):
                    if not (arrived := await self._received.get()):
                        return True
                    if not batch:
                        limit.reschedule(asyncio.get_running_loop().time() + seconds)
                    batch += arrived
        return False

    async def _commit(self, batch: list[Message]) -> int:
        """Land *batch*, however often it takes, and return how many of its messages are new; an empty one only asks whether it could.

        Where PostgreSQL is away for long, the messages are given back to the queue, and *batch* is empty afterwards.
        """
        while (landed := await self._ask(POSTGRESQL, self._landing.land(batch))) is None:
            failures, since = self._failing[POSTGRESQL]
            if not (self._until_empty or self._stopping) and monotonic() - since > KEEP_SECONDS:
                while not self._received.empty():
                    batch += self._received.get_nowait()
                self._held.bytes -= weight(batch)
                await self._in_tens([message.receipt_handle for message in batch], self._release)
                batch.clear()
            await asyncio.sleep(backoff_seconds(failures))
        self._report.committed_at = monotonic()
        self._report.unsafe.set(not self._landing.is_durable)
        return landed

    async def _delete(self) -> None:
        while handles := await self._committed.get():
            failures = 0
            while handles:
                if failures:
                    await asyncio.sleep(backoff_seconds(failures))
                # What cannot be deleted while it is ours comes again, lands as a duplicate, and is deleted then.
                ours = self._held.ours(handles, monotonic())
                failed = await self._ask("delete", self._queue.delete(ours)) if ours else {}
                failed = dict.fromkeys(ours, "") if failed is None else failed
                again = [handle for handle, code in failed.items() if code not in GONE_CODES]
                done, expired = len(ours) - len(failed), len(handles) - len(ours) + len(failed) - len(again)
                self._report.add(messages_deleted=done, message_delete_failures=len(again), message_handles_expired=expired)
                self._let_go(set(handles).difference(again))
                handles, failures = again, failures + 1

    async def _keep_leases(self) -> None:
        """Keep what is held from others while a commit or a delete is slow: extend at half time, and often enough for twenty failures."""
        while True:
            await self._in_tens(self._held.due(monotonic()), self._extend)
            await asyncio.sleep(self._held.lease_seconds / 60)

    async def _extend(self, handles: list[str]) -> None:
        asked_at = monotonic()
        if (failed := await self._ask("extend", self._queue.hide(handles, self._queue.visibility_seconds))) is not None:
            self._held.extend([handle for handle in handles if handle not in failed], asked_at)
            self._held.drop(handle for handle, code in failed.items() if code in GONE_CODES)

    async def _release(self, handles: list[str]) -> None:
        if (failed := await self._ask("give back", self._queue.hide(handles, 0))) is not None:
            self._report.add(messages_released=len(handles) - len(failed))
        self._let_go(handles)  # what SQS did not take back comes back when its visibility time-out ends

    def _let_go(self, handles: Iterable[str]) -> None:
        self._held.drop(handles)
        self._turn.set()

    async def _in_tens(self, handles: Sequence[str], action: Callable[[list[str]], Awaitable[None]]) -> None:
        """Run *action* on *handles*, ten at a time, with as many calls under way as there are receivers."""
        portions, step = in_tens(handles), self._settings.loader_receivers
        for start in range(0, len(portions), step):
            await asyncio.gather(*map(action, portions[start : start + step]))

    async def _watch_depth(self) -> None:
        while True:
            if depth := await self._ask("count", self._queue.depth()):
                self._report.depth(depth)
            await asyncio.sleep(DEPTH_SECONDS[self._until_empty])

    async def _ask(self, what: str, call: Awaitable[Answer]) -> Answer | None:
        """The answer to *call*, or None where it failed and trying again may help; raises a LoaderError where it cannot.

        Once messages have come, a refusal may pass, as when credentials are renewed. Not so for deletes: who may receive and not delete
        would have all messages received over and over, until they are dead letters.
        """
        try:
            answer = await call
        except TemporaryError as error:
            failures, since = self._failing.get(what, (0, monotonic()))
            self._failing[what] = failures + 1, since
            self._report.add(**{"sqs_errors" if error.code else "database_errors": 1})
            if not self._has_received or what == "delete":
                end_if_fatal(error, self._queue.url)
            if self._until_empty and monotonic() - since > OUTAGE_SECONDS:
                found = f"{f'queue {self._queue.url}: ' if error.code else ''}{what} failed for {OUTAGE_SECONDS} s ({error})"
                raise unavailable(f"{found}; run python -m loader drain again later") from None
            self._report.trouble(f"{what} failed, trying again", str(error))
            return None
        self._failing.pop(what, None)
        return answer


def in_tens(handles: Sequence[str]) -> list[list[str]]:
    """*handles* in the portions that one call to SQS takes."""
    return [list(handles[start : start + RECEIVE_MAX]) for start in range(0, len(handles), RECEIVE_MAX)]
