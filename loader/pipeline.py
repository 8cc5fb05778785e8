"""Three parts side by side, which hand messages on through queues.

    SQS ──► receive ──► received ──► land ──► committed ──► delete ──► SQS

A message is deleted only after the commit of the transaction that landed it. Whatever goes wrong before that, it stays on the queue or
comes back to it, and the key of `staging.raw_logins` makes a second landing harmless.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable
from time import monotonic
from typing import Any, TypeVar

from loader.delivery import RECEIVE_MAX, Delivery, Held
from loader.errors import TemporaryError, backoff_seconds, unavailable, unfinished
from loader.landing import Landing
from loader.report import Report
from loader.settings import LoaderSettings
from loader.sqs import GONE_CODES, Queue, end_if_fatal

WAIT_SECONDS = (20, 1)  # for which follow and drain wait for a message; one second already asks all of SQS's servers
# drain ends after so many empty answers in a row, and then only if the queue's own counts say zero; it waits so long for what others hold
EMPTY_ANSWERS, PATIENCE_SECONDS = 3, 900
OUTAGE_SECONDS = 300  # how long a server may fail before drain gives up; follow never does
KEEP_SECONDS = 180  # how long messages are kept from others while PostgreSQL fails; then they are given back
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
        self._received: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self._committed: asyncio.Queue[Delivery | None] = asyncio.Queue()  # in both, None is the end
        self._held = Held(settings.loader_max_held_messages, settings.loader_max_held_bytes)
        report.in_flight = lambda: self._held.messages
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
        tasks: list[asyncio.Task[Any]] = [*writers, *receivers, start(stop.wait())]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            is_empty, self._stopping = self._stopping, True
            deadline = monotonic() + self._settings.loader_grace_seconds - RELEASE_SECONDS
            self._turn.set()
            await asyncio.wait(receivers, timeout=LAST_ANSWERS_SECONDS)
            self._received.put_nowait(None)
            # A writer that fails ends by an error that trying again cannot help; then the others would not end either.
            await asyncio.wait(writers, timeout=max(0, deadline - monotonic()), return_when=asyncio.FIRST_EXCEPTION)
            for task in (*receivers, *writers):
                task.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._give_back()
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
                await self._poll()
                self._polling -= 1
            else:
                self._turn.clear()
                await self._turn.wait()

    def _may_poll(self) -> bool:
        """Not without room, nor while messages cannot be landed or deleted; and without work only one at a time: the scout."""
        is_blocked = POSTGRESQL in self._failing or ("delete" in self._failing and self._held)
        return not is_blocked and self._held.has_room(self._polling) and (self._has_work or not self._polling)

    async def _poll(self) -> None:
        delivery = await self._ask("receive", self._queue.receive(WAIT_SECONDS[self._until_empty]))
        if delivery is None:
            self._has_work = False
            await asyncio.sleep(backoff_seconds(self._failing["receive"][0]))
            return
        counts, had_work, now = self._report.counts, self._has_work, monotonic()
        self._has_received, self._has_work, self._report.received_at = True, bool(delivery.handles or delivery.damaged), now
        for what in delivery.damaged:
            counts["messages_damaged"] += 1
            self._report.trouble("message damaged and left on the queue", what)
        if delivery.handles:
            counts["messages_received"] += len(delivery.handles)
            counts["messages_redelivered"] += delivery.redelivered
            self._held.take(delivery)
            self._received.put_nowait(delivery)
        if self._has_work:
            self._empty_answers, self._last_message = 0, now
            if not had_work:
                self._turn.set()
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
        self._empty_answers = 0
        if any(depth) and monotonic() - self._last_message > PATIENCE_SECONDS:
            of_others = f"{depth[1]} in flight with another consumer, {depth[2]} delayed"
            left = f"{sum(depth)} messages are left that the queue does not hand out ({of_others})"
            raise unfinished(f"{left}; run python -m loader drain again later")
        return not any(depth)

    async def _land(self) -> None:
        while (batch := await self._fill()) is not None:
            await self._commit(batch)
        for _ in range(self._settings.loader_receivers):
            self._committed.put_nowait(None)

    async def _fill(self) -> list[Delivery] | None:
        """A batch that is large or old enough, whichever comes first; an empty one when idle for long; None at the end."""
        batch, room = list[Delivery](), self._settings.loader_batch_messages
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_COMMIT_SECONDS) as limit:
                while room >= RECEIVE_MAX:
                    if not (delivery := await self._received.get()):
                        self._received.put_nowait(None)  # for the next time
                        return batch or None
                    if not batch:
                        limit.reschedule(asyncio.get_running_loop().time() + self._settings.loader_batch_seconds)
                    batch.append(delivery)
                    room -= len(delivery.handles)
        return batch

    async def _commit(self, batch: list[Delivery]) -> None:
        """Land *batch*, however often it takes, and hand it on; an empty one only asks whether it could.

        Where PostgreSQL is away for long, all that is held is given back to the queue.
        """
        started = monotonic()
        while (landed := await self._ask(POSTGRESQL, self._landing.land(batch))) is None:
            failures, since = self._failing[POSTGRESQL]
            if not (self._until_empty or self._stopping) and monotonic() - since > KEEP_SECONDS:
                while not self._received.empty():
                    self._received.get_nowait()
                batch = []
                await self._give_back()
            await asyncio.sleep(backoff_seconds(failures))
        self._report.committed_at = monotonic()
        for delivery in batch:
            self._held.landed(delivery)
            self._committed.put_nowait(delivery)
        self._turn.set()
        if batch:
            messages, oldest_ms = sum(len(delivery.handles) for delivery in batch), min(min(delivery.sent_ms) for delivery in batch)
            self._report.batch(landed, messages - landed, monotonic() - started, oldest_ms)

    async def _delete(self) -> None:
        counts = self._report.counts
        while delivery := await self._committed.get():
            handles, failures = delivery.handles, 0
            # What cannot be deleted while it is ours comes again, lands as a duplicate, and is deleted then.
            while handles and delivery.until > monotonic():
                if failures:
                    await asyncio.sleep(backoff_seconds(failures))
                failed = await self._ask("delete", self._queue.delete(handles))
                again = handles if failed is None else [handle for handle, code in failed.items() if code not in GONE_CODES]
                expired = len(failed or again) - len(again)
                done = len(handles) - len(again) - expired
                counts["messages_deleted"] += done
                counts["message_delete_failures"] += len(again)
                counts["message_handles_expired"] += expired
                handles, failures = again, failures + 1
            counts["message_handles_expired"] += len(handles)
            self._drop(delivery)

    async def _give_back(self) -> None:
        """Give all that is held back to the queue, with as many calls under way as there are receivers."""
        while some := list(itertools.islice(self._held, self._settings.loader_receivers)):
            await asyncio.gather(*map(self._release, some))

    async def _release(self, delivery: Delivery) -> None:
        if (failed := await self._ask("give back", self._queue.release(delivery.handles))) is not None:
            self._report.counts.update(messages_released=len(delivery.handles) - len(failed))
        self._drop(delivery)  # what SQS did not take back comes back when its visibility time-out ends

    def _drop(self, delivery: Delivery) -> None:
        self._held.drop(delivery)
        self._turn.set()

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
            self._report.counts.update(**{"sqs_errors" if error.code else "database_errors": 1})
            if not self._has_received or what == "delete":
                end_if_fatal(error, self._queue.url)
            if self._until_empty and monotonic() - since > OUTAGE_SECONDS:
                found = f"{f'queue {self._queue.url}: ' if error.code else ''}{what} failed for {OUTAGE_SECONDS} s ({error})"
                raise unavailable(f"{found}; run python -m loader drain again later") from None
            self._report.trouble(f"{what} failed, trying again", str(error))
            return None
        self._failing.pop(what, None)
        return answer
