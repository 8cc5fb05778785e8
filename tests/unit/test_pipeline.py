"""The four parts, without a server."""

import asyncio
import time
from collections.abc import Callable

import pytest

from loader import held, pipeline
from loader.errors import LoaderError, SqsError, TemporaryError
from tests.unit.memory import Run


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off takes no time."""
    monkeypatch.setattr(pipeline, "backoff_seconds", lambda *_: 0.001)


async def until(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds, ten seconds at most."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # any condition of a test, which sets no event
            await asyncio.sleep(0.001)


def test_what_is_drained_is_landed_then_deleted_and_counted() -> None:
    async def work() -> None:
        run = Run(95)
        await run()
        assert run.landing.rows == {f"m{number}": f"body {number}" for number in range(95)}
        assert sorted(run.queue.deleted) == sorted(run.landing.rows)
        assert (run.report.count("messages_received"), run.report.count("messages_landed"), run.report.count("messages_deleted")) == (
            95,
            95,
            95,
        )
        assert len(run.report.leases) == 0

    asyncio.run(work())


def test_nothing_is_deleted_before_its_commit() -> None:
    async def work() -> None:
        run = Run(30)
        run.landing.open.clear()
        task = asyncio.create_task(run())
        await until(lambda: run.report.count("messages_received") == 30)
        assert not run.queue.calls.get("delete")
        run.landing.open.set()
        await task
        assert len(run.queue.deleted) == 30

    asyncio.run(work())


def test_the_same_message_twice_in_one_receive_lands_once_and_is_deleted() -> None:
    async def work() -> None:
        run = Run(7)
        run.queue.twice = True
        await run()
        assert (run.report.count("messages_landed"), run.report.count("messages_duplicate")) == (7, 7)
        assert run.report.count("messages_redelivered") == 7
        assert not run.queue.bodies

    asyncio.run(work())


def test_one_scout_asks_while_idle_and_all_while_there_is_work() -> None:
    async def work() -> None:
        run = Run()
        run.queue.wait_seconds = 0.05
        task = asyncio.create_task(run(until_empty=False))
        await until(lambda: run.queue.calls.get("receive", 0) >= 3)
        assert run.queue.most_asking == 1
        run.queue.bodies.update({f"m{number}": "{}" for number in range(200)})
        await until(lambda: len(run.queue.deleted) == 200)
        assert run.queue.most_asking == 4
        run.stop.set()
        await task

    asyncio.run(work())


def test_while_postgresql_fails_no_more_is_received_and_then_it_goes_on() -> None:
    async def work() -> None:
        run = Run(500, loader_batch_messages=10)
        run.landing.failures = [TemporaryError("away")] * 5
        await run()
        assert run.report.count("database_errors") == 5
        assert len(run.landing.rows) == 500
        assert run.report.troubles.count("PostgreSQL failed, trying again: away") == 5

    asyncio.run(work())


def test_after_a_long_outage_what_is_held_is_given_back_and_received_again_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "KEEP_SECONDS", 0.05)

    async def work() -> None:
        run = Run(30)
        run.landing.failures = [TemporaryError("away")] * 1_000_000
        task = asyncio.create_task(run(until_empty=False))
        await until(lambda: run.report.count("messages_released"))
        await until(lambda: len(run.report.leases) == 0)
        received = run.queue.calls["receive"]
        await until(lambda: run.report.count("database_errors") > 100)
        assert run.queue.calls["receive"] == received  # and their receive count does not rise
        run.landing.failures = []
        await until(lambda: len(run.queue.deleted) == 30)
        run.stop.set()
        await task

    asyncio.run(work())


def test_a_drain_gives_postgresql_up_after_a_long_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "OUTAGE_SECONDS", 0.05)

    async def work() -> None:
        run = Run(3)
        run.landing.failures = [TemporaryError("away")] * 1_000_000
        with pytest.raises(LoaderError, match="run python -m loader drain again later"):
            await run()
        assert not run.queue.deleted
        assert run.report.count("messages_released") == 3

    asyncio.run(work())


def test_a_drain_does_not_give_sqs_up_that_answers_between_its_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long landing took since the last answer."""
    monkeypatch.setattr(pipeline, "OUTAGE_SECONDS", 0.05)

    async def work() -> None:
        run = Run(10, loader_max_held_messages=10)
        run.landing.open.clear()
        task = asyncio.create_task(run())
        await until(lambda: run.report.count("messages_received") == 10)
        await asyncio.sleep(0.1)  # the time without a receive, which is the fault
        run.queue.failures["receive"] = [SqsError("InternalError", "once")]
        run.landing.open.set()
        await task
        assert run.report.count("sqs_errors") == 1

    asyncio.run(work())


def test_a_drain_gives_sqs_up_that_fails_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "OUTAGE_SECONDS", 0.05)

    async def work() -> None:
        run = Run(1)
        run.queue.failures["receive"] = [SqsError("InternalError", "always")] * 1_000_000
        with pytest.raises(LoaderError, match="receive failed for"):
            await run()

    asyncio.run(work())


def test_twenty_failing_extensions_in_a_row_let_no_message_lapse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "backoff_seconds", held.backoff_seconds)

    async def work() -> None:
        run = Run(10)
        run.queue.visibility_seconds = 2
        run.queue.failures["extend"] = [SqsError("InternalError", "extend")] * 20
        run.landing.open.clear()
        task, started = asyncio.create_task(run()), time.monotonic()
        # held beyond the first lease, which alone would have lapsed
        await until(lambda: run.queue.calls.get("extend", 0) > 22 and time.monotonic() - started > 1.5 * run.queue.visibility_seconds)
        run.landing.open.set()
        await task
        assert run.report.count("message_handles_expired") == 0
        assert run.report.count("messages_received") == 10

    asyncio.run(work())


def test_a_delete_that_fails_as_a_whole_is_no_expired_handle() -> None:
    """Such as InvalidParameterValue, which says of a single message that its handle is too old."""

    async def work() -> None:
        run = Run(10)
        run.queue.failures["delete"] = [SqsError("InvalidParameterValue", "of the whole call")] * 3
        await run()
        assert run.report.count("message_handles_expired") == 0
        assert run.report.count("message_delete_failures") == 30
        assert run.report.count("messages_deleted") == 10

    asyncio.run(work())


def test_a_message_that_cannot_be_deleted_becomes_a_dead_letter_and_lands_anew_when_it_is_redriven(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a duplicate until then, and afterwards as another message: a redriven one has a new id."""
    monkeypatch.setattr(pipeline, "KEEP_SECONDS", 0.0)

    async def work() -> None:
        run = Run(1)
        run.queue.visibility_seconds, run.queue.undeletable, run.queue.max_receives = 1, True, 3
        task = asyncio.create_task(run(until_empty=False))
        await until(lambda: run.queue.dead)
        assert run.landing.rows == {"m0": "body 0"}
        counts = {
            name: run.report.count(name) for name in ("messages_received", "messages_landed", "messages_duplicate", "messages_deleted")
        }
        assert counts == {"messages_received": 3, "messages_landed": 1, "messages_duplicate": 2, "messages_deleted": 0}
        assert run.report.count("message_delete_failures") >= 3
        run.queue.undeletable = False
        run.queue.bodies["redriven"] = run.queue.dead.pop("m0")
        await until(lambda: run.queue.deleted == ["redriven"])
        run.stop.set()
        await task
        assert run.landing.rows == {"m0": "body 0", "redriven": "body 0"}
        assert run.report.count("message_handles_expired") == 3
        assert not run.report.leases

    asyncio.run(work())


def test_a_purge_while_messages_are_held_takes_nothing_from_staging() -> None:
    async def work() -> None:
        run = Run(30)
        run.landing.open.clear()
        task = asyncio.create_task(run())
        await until(lambda: run.report.count("messages_received") == 30)
        run.queue.bodies.clear()
        run.landing.open.set()
        await task
        assert len(run.landing.rows) == 30
        assert run.queue.deleted == []
        assert run.report.count("messages_deleted") == 30  # SQS confirms a delete of what is gone

    asyncio.run(work())


def test_while_deletes_fail_no_more_is_received() -> None:
    async def work() -> None:
        run = Run(500, loader_batch_messages=10, loader_receivers=2)
        run.queue.failures["delete"] = [SqsError("InternalError", "delete")] * 200
        await run()
        assert max(run.queue.receives.values()) == 1
        assert run.report.count("messages_deleted") == 500

    asyncio.run(work())


def test_a_refusal_stops_what_never_worked_and_a_refused_delete_always() -> None:
    async def work() -> None:
        run = Run(10)
        run.queue.failures["receive"] = [SqsError("AccessDenied", "not you")]
        with pytest.raises(LoaderError, match="SQS refuses us"):
            await run(until_empty=False)
        run = Run(10)
        run.queue.failures["delete"] = [SqsError("AccessDenied", "not you")]
        with pytest.raises(LoaderError, match="SQS refuses us"):
            await run(until_empty=False)

    asyncio.run(work())


@pytest.mark.parametrize("code", ["QueueDoesNotExist", "ExpiredToken", "AccessDenied", "KmsAccessDenied"])
def test_once_it_has_worked_a_refused_receive_may_pass(code: str) -> None:
    """A queue that was deleted is made again, credentials are renewed, a policy is corrected."""

    async def work() -> None:
        run = Run(10)
        task = asyncio.create_task(run(until_empty=False))
        await until(lambda: len(run.queue.deleted) == 10)
        run.queue.failures["receive"] = [SqsError(code, "for now")] * 5
        run.queue.bodies["late"] = "{}"
        await until(lambda: "late" in run.queue.deleted)
        assert run.report.count("sqs_errors") == 5
        run.stop.set()
        await task

    asyncio.run(work())


def test_told_to_stop_it_lands_what_it_holds_and_gives_the_rest_back() -> None:
    async def work() -> None:
        run = Run(100, loader_grace_seconds=6)
        task = asyncio.create_task(run(until_empty=False))
        await until(lambda: run.report.count("messages_received"))
        run.stop.set()
        await task
        assert sorted(run.queue.deleted) == sorted(run.landing.rows)
        assert len(run.report.leases) == 0

    asyncio.run(work())


def test_an_error_that_trying_again_cannot_help_gives_everything_back() -> None:
    async def work() -> None:
        run = Run(30)
        run.landing.failures = [LoaderError("broken", 70)]
        with pytest.raises(LoaderError, match="broken"):
            await run(until_empty=False)
        assert run.report.count("messages_released") == run.report.count("messages_received") > 0
        assert not run.queue.deleted

    asyncio.run(work())


def test_messages_that_another_consumer_keeps_are_named_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PATIENCE_SECONDS", 0.1)

    async def work() -> None:
        run = Run(3)
        run.queue.others = 2
        with pytest.raises(LoaderError, match="2 in flight with another consumer"):
            await run()
        assert len(run.queue.deleted) == 3

    asyncio.run(work())


@pytest.mark.parametrize("settings", [{"loader_receivers": 1}, {"loader_batch_messages": 1}, {"loader_max_held_messages": 10}], ids=str)
def test_the_smallest_settings_work(settings: dict[str, int]) -> None:
    async def work() -> None:
        run = Run(50, **settings)
        await run()
        assert len(run.queue.deleted) == 50
        assert max(run.landing.batches) <= run.settings.loader_batch_messages

    asyncio.run(work())


def test_an_idle_loader_asks_postgresql_whether_it_could_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "IDLE_COMMIT_SECONDS", 0.01)

    async def work() -> None:
        run = Run()
        task = asyncio.create_task(run(until_empty=False))
        await until(run.report.is_ready)
        first = run.report.committed_at
        await until(lambda: run.report.committed_at > first)
        run.stop.set()
        await task

    asyncio.run(work())


def test_it_is_ready_only_after_both_a_receive_and_a_commit_within_a_minute() -> None:
    async def work() -> None:
        report, now = Run().report, asyncio.get_running_loop().time()
        assert not report.is_ready()
        report.received_at = now
        assert not report.is_ready()
        report.committed_at = now - 61
        assert not report.is_ready()
        report.committed_at = now - 59
        assert report.is_ready()

    asyncio.run(work())
