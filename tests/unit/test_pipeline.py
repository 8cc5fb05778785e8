"""The three parts, without a server."""

import asyncio
import time

import pytest

from loader import pipeline
from loader.errors import LoaderError, SqsError, TemporaryError
from tests.unit.memory import Run, until

AWAY = TemporaryError("away")
FOR_EVER = 1_000_000


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off takes no time."""
    monkeypatch.setattr(pipeline, "backoff_seconds", lambda *_: 0.001)


async def test_what_is_drained_is_landed_then_deleted_and_counted() -> None:
    run = Run(95)
    await run.drain()
    assert run.landing.rows == {f"m{number}": f"body {number}" for number in range(95)}
    assert sorted(run.queue.deleted) == sorted(run.landing.rows)
    assert run.messages("received", "landed", "deleted") == [95, 95, 95]
    assert run.in_flight() == 0


async def test_nothing_is_deleted_before_its_commit() -> None:
    run = Run(30)
    async with run.draining():
        await until(lambda: run.messages("received") == [30])
        assert not run.queue.calls["delete"]
    assert len(run.queue.deleted) == 30


async def test_one_scout_asks_while_idle_and_all_while_there_is_work() -> None:
    run = Run()
    run.queue.wait_seconds = 0.05
    async with run.following():
        await until(lambda: run.queue.calls["receive"] >= 3)
        assert run.queue.most_asking == 1
        run.queue.bodies.update({f"m{number}": "{}" for number in range(200)})
        await until(lambda: len(run.queue.deleted) == 200)
        assert run.queue.most_asking == 4


async def test_while_postgresql_fails_no_more_is_received_and_then_it_goes_on() -> None:
    run = Run(500, loader_batch_messages=10)
    run.landing.failures = [AWAY] * 5
    await run.drain()
    assert run.counts["database_errors"] == 5
    assert len(run.landing.rows) == 500
    assert run.troubles.count("PostgreSQL failed, trying again: away") == 5


async def test_after_a_long_outage_what_is_held_is_given_back_and_received_again_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "KEEP_SECONDS", 0.05)
    run = Run(30)
    run.landing.failures = [AWAY] * FOR_EVER
    async with run.following():
        await until(lambda: run.counts["messages_released"] and not run.in_flight())
        received, failed = run.queue.calls["receive"], run.counts["database_errors"]
        await until(lambda: run.counts["database_errors"] > failed + 100)
        assert run.queue.calls["receive"] == received  # and their receive count does not rise
        run.landing.failures = []
        await until(lambda: len(run.queue.deleted) == 30)


@pytest.mark.parametrize("what", ["PostgreSQL", "receive"])
async def test_a_drain_gives_a_server_up_that_fails_for_long(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(pipeline, "OUTAGE_SECONDS", 0.05)
    run = Run(3)
    if what == "receive":
        run.queue.failures["receive"] = [SqsError("InternalError", "always")] * FOR_EVER
    else:
        run.landing.failures = [AWAY] * FOR_EVER
    with pytest.raises(LoaderError, match=f"{what} failed for .*; run python -m loader drain again later"):
        await run.drain()
    assert not run.queue.deleted
    assert run.messages("released") == run.messages("received")


async def test_a_drain_does_not_give_sqs_up_that_answers_between_its_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long landing took since the last answer."""
    monkeypatch.setattr(pipeline, "OUTAGE_SECONDS", 0.05)
    run = Run(10, loader_max_held_messages=10)
    async with run.draining():
        await until(lambda: run.messages("received") == [10])
        await asyncio.sleep(0.1)  # the time without a receive, which is the fault
        run.queue.failures["receive"] = [SqsError("InternalError", "once")]
    assert run.counts["sqs_errors"] == 1


async def test_a_delete_that_fails_as_a_whole_is_no_expired_handle() -> None:
    """Such as InvalidParameterValue, which says of a single message that its handle is too old."""
    run = Run(10)
    run.queue.failures["delete"] = [SqsError("InvalidParameterValue", "of the whole call")] * 3
    await run.drain()
    assert (run.counts["message_handles_expired"], run.counts["message_delete_failures"], run.messages("deleted")) == (0, 30, [10])


async def test_a_message_that_cannot_be_deleted_lands_as_a_duplicate_and_anew_when_it_was_a_dead_letter_and_is_redriven() -> None:
    """A redriven message has a new id."""
    run = Run(1)
    run.queue.visibility_seconds, run.queue.undeletable = 1, True
    async with run.following():
        await until(lambda: run.messages("duplicate") == [2] and run.counts["message_delete_failures"] >= 3)
        assert run.messages("received", "landed", "deleted", "redelivered") == [3, 1, 0, 2]
        run.queue.undeletable, run.queue.bodies = False, {"redriven": run.queue.bodies["m0"]}
        await until(lambda: run.queue.deleted == ["redriven"] and not run.in_flight())
    assert run.landing.rows == {"m0": "body 0", "redriven": "body 0"}
    assert run.counts["message_handles_expired"] >= 2


async def test_while_deletes_fail_no_more_is_received() -> None:
    run = Run(500, loader_batch_messages=10, loader_receivers=2)
    run.queue.failures["delete"] = [SqsError("InternalError", "delete")] * 200
    await run.drain()
    assert max(run.queue.receives.values()) == 1
    assert run.messages("deleted") == [500]


@pytest.mark.parametrize("call", ["receive", "delete"])
async def test_a_refusal_stops_what_never_worked_and_a_refused_delete_always(call: str) -> None:
    run = Run(10)
    run.queue.failures[call] = [SqsError("AccessDenied", "not you")]
    with pytest.raises(LoaderError, match="SQS refuses us"):
        await run.follow()


@pytest.mark.parametrize("code", ["QueueDoesNotExist", "ExpiredToken", "AccessDenied", "KmsAccessDenied"])
async def test_once_it_has_worked_a_refused_receive_may_pass(code: str) -> None:
    """A queue that was deleted is made again, credentials are renewed, a policy is corrected."""
    run = Run(10)
    async with run.following():
        await until(lambda: len(run.queue.deleted) == 10)
        run.queue.failures["receive"] = [SqsError(code, "for now")] * 5
        await until(lambda: run.counts["sqs_errors"] == 5)
        run.queue.bodies["late"] = "{}"
        await until(lambda: "late" in run.queue.deleted)


async def test_an_error_that_trying_again_cannot_help_gives_everything_back() -> None:
    run = Run(30)
    run.landing.failures = [LoaderError("broken", 70)]
    with pytest.raises(LoaderError, match="broken"):
        await run.follow()
    assert run.messages("released") == run.messages("received") != [0]
    assert not run.queue.deleted


async def test_messages_that_another_consumer_keeps_are_named_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PATIENCE_SECONDS", 0.1)
    run = Run(3)
    run.queue.others = 2
    with pytest.raises(LoaderError, match="2 in flight with another consumer"):
        await run.drain()
    assert len(run.queue.deleted) == 3


@pytest.mark.parametrize("settings", [{"loader_receivers": 1}, {"loader_batch_messages": 10}, {"loader_max_held_messages": 10}], ids=str)
async def test_the_smallest_settings_work(settings: dict[str, int]) -> None:
    run = Run(50, **settings)
    await run.drain()
    assert len(run.queue.deleted) == 50
    assert max(run.landing.batches) <= run.settings.loader_batch_messages


async def test_an_idle_loader_asks_postgresql_whether_it_could_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "IDLE_COMMIT_SECONDS", 0.01)
    run = Run()
    async with run.following():
        await until(run.is_ready)
        first = run.committed_at
        await until(lambda: run.committed_at > first)


async def test_it_is_ready_only_after_both_a_receive_and_a_commit_within_a_minute() -> None:
    run, now = Run(), time.monotonic()
    for received_ago, committed_ago, is_ready in ((float("inf"), 0, False), (0, float("inf"), False), (0, 61, False), (0, 59, True)):
        run.received_at, run.committed_at = now - received_ago, now - committed_ago
        assert run.is_ready() is is_ready
