"""SQS refuses, forgets, repeats itself, and disagrees about the time."""

import datetime as dt

import pytest

from tests.faults.trial import IDS, Fault, Trial, after_commit, before_copy, lose, survive

pytestmark = pytest.mark.slow

DAY = dt.timedelta(days=1)


def sqs_misbehaves(proof: str, **behaviour: float) -> Fault:
    """*proof* is what the stub calls the fault when it has happened. Calls are repeated: no message has to come again."""

    def fault(trial: Trial) -> None:
        trial.stub.control(**behaviour)
        trial.send()
        trial.start()
        trial.wait_for_stub(proof)
        trial.wait_until_loaded()
        assert trial.stub.stats().get("expired", 0) == 0
        trial.stub.control(**dict.fromkeys(behaviour, 0))

    return fault


def the_same_message_comes_again(trial: Trial) -> None:
    """Twice in a reply, again at once under a new handle, and, after a crash before the delete, a day later by the loader's clock."""
    trial.stub.control(duplicate_rate=0.2, redeliver_rate=0.1)
    now = dt.datetime.now(dt.UTC)
    for days in (0, 1, 3):
        trial.send(IDS // 3 + 1, milliseconds(now - days * DAY))
    trial.hold_at(after_commit, batch=5)
    loader = trial.start()
    trial.wait_until_held()
    trial.kill(loader)
    landed = trial.landed()
    trial.start(clock_hours=24)
    trial.wait_until_loaded()
    for proof in ("duplicated in a batch", "redelivered at once", "expired"):
        trial.wait_for_stub(proof)
    trial.proof["landed before"] = landed
    trial.proof["days"] = trial.database.value("select count(distinct tableoid) from staging.raw_logins")
    assert landed
    assert trial.proof["days"] == 3
    trial.stub.control(duplicate_rate=0, redeliver_rate=0)


def the_clock_is_off(hours: int) -> Fault:
    """The loader's, for which SQS refuses its signatures; what lands has the queue's time, on both sides of a midnight."""

    def fault(trial: Trial) -> None:
        midnight = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        sent_at = {midnight - dt.timedelta(minutes=30), midnight + dt.timedelta(minutes=30)}
        trial.stub.control(checks_time=True)
        for one in sent_at:
            trial.send(IDS // 2, milliseconds(one))
        loader = trial.start(clock_hours=hours)
        trial.wait_for_stub("refused for their time")
        trial.wait_for_stub("signed in time")
        trial.wait_until_loaded()
        trial.wait_for("it says when", lambda: bool(loader.events()))
        first = dt.datetime.fromisoformat(loader.events()[0]["timestamp"])
        trial.proof["fast by"] = str(first - dt.datetime.now(dt.UTC))
        assert abs(first - dt.datetime.now(dt.UTC) - dt.timedelta(hours=hours)) < dt.timedelta(minutes=30)
        landed = set(trial.database.rows("select distinct sent_at, tableoid::regclass::text from staging.raw_logins"))
        assert landed == {(one, f"staging.raw_logins_{one:%Y%m%d}") for one in sent_at}
        trial.stub.control(checks_time=False)

    return fault


def milliseconds(at: dt.datetime) -> int:
    return int(at.timestamp() * 1000)


def dead_letters_are_redriven(trial: Trial) -> None:
    """Messages that a crashing loader received too often come back from the dead-letter queue with new ids."""
    trial.stub.control(max_receives=2)
    trial.send(200)
    for _ in range(2):
        trial.hold_at(before_copy)
        loader = trial.start()
        trial.wait_until_held()
        trial.wait_for("all is received", lambda: trial.stub.stats().get("in flight") == trial.stub.stats()["left"])
        trial.kill(loader)
        trial.wait_for("all is visible again", lambda: trial.stub.stats()["in flight"] == 0)
    trial.send(IDS - 200)
    trial.finish()
    trial.wait_for_stub("dead")
    trial.stub.control(max_receives=0)
    trial.stub.redrive()
    trial.finish()
    trial.wait_for_stub("redriven")


FAULTS: dict[str, Fault] = {
    "the answers to deletes get lost": sqs_misbehaves("answers lost", lose_answer_rate=0.2),
    "single deletes fail": sqs_misbehaves("failed entries", entry_failure_rate=0.1),
    "SQS answers 500": sqs_misbehaves("errors", error_rate=0.1),
    "SQS throttles": sqs_misbehaves("throttled", throttle_rate=0.1),
    "too many messages are in flight": sqs_misbehaves("over limit", over_limit_rate=0.5),
    "the same message comes again": the_same_message_comes_again,
    "the clock is an hour fast": the_clock_is_off(1),
    "the clock is an hour slow": the_clock_is_off(-1),
    "dead letters are redriven": dead_letters_are_redriven,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nothing_is_lost_when(trial: Trial, fault: Fault) -> None:
    survive(trial, fault)


def test_control_a_loader_that_deletes_before_the_commit_loses_messages(trial: Trial) -> None:
    lose(trial, FAULTS["SQS answers 500"])
