"""SQS refuses, forgets, repeats itself, and disagrees about the time."""

import os
import time

import pytest

from tests.faults.trial import IDS, Fault, Trial, before_copy, controls, lose, survive

DAY_MS = 24 * 60 * 60 * 1000


def sqs_misbehaves(proof: str, **behaviour: float) -> Fault:
    """*proof* is what the stub calls the fault when it has happened. Calls are repeated: no message has to come again."""

    def fault(trial: Trial) -> None:
        trial.stub.control(**behaviour)
        trial.send()
        loader = trial.start("drain")
        assert loader.wait() == os.EX_OK, loader.output()
        trial.wait_for_stub(proof)
        assert trial.stub.stats().get("expired", 0) == 0
        trial.stub.control(**dict.fromkeys(behaviour, 0))

    return fault


def the_same_message_comes_again(trial: Trial) -> None:
    """Twice in a reply, again at once under a new handle, and from other days."""
    trial.stub.control(duplicate_rate=0.2, redeliver_rate=0.1)
    now_ms = int(time.time() * 1000)
    for days in (0, 1, 3):
        trial.send(IDS // 3 + 1, now_ms - days * DAY_MS)
    loader = trial.start("drain")
    assert loader.wait() == os.EX_OK, loader.output()
    trial.wait_for_stub("duplicated in a batch")
    trial.wait_for_stub("redelivered at once")
    trial.stub.control(duplicate_rate=0, redeliver_rate=0)
    trial.proof["days"] = trial.database.value("select count(distinct tableoid) from staging.raw_logins")
    assert trial.proof["days"] == 3


def clock_is_off(hours: int) -> Fault:
    return sqs_misbehaves("refused for their time", clock_offset=-3600 * hours)


def dead_letters_are_redriven(trial: Trial) -> None:
    """Messages that a crashing loader received too often come back from the dead-letter queue with new ids."""
    trial.stub.control(visibility=4, max_receives=2)
    trial.send(IDS // 10)
    for _ in range(2):
        trial.hold_at(before_copy)
        loader = trial.start()
        trial.wait_until_held()
        trial.wait_for("all is received", lambda: trial.stub.stats().get("in flight") == trial.stub.stats()["left"] or trial.careless)
        trial.kill(loader)
        trial.to_postgres.heal()
        trial.wait_for("all is visible again", lambda: trial.stub.stats()["in flight"] == 0)
    trial.send(IDS - IDS // 10)
    trial.finish()
    trial.wait_for_stub("dead", 0 if trial.careless else 1)
    trial.stub.control(max_receives=0)
    trial.stub.redrive()
    trial.finish()
    trial.wait_for_stub("redriven", 0 if trial.careless else 1)


FAULTS: dict[str, Fault] = {
    "the answers to deletes get lost": sqs_misbehaves("answers lost", lose_answer_rate=0.2),
    "single deletes fail": sqs_misbehaves("failed entries", entry_failure_rate=0.1),
    "SQS answers 500": sqs_misbehaves("errors", error_rate=0.1),
    "SQS throttles": sqs_misbehaves("throttled", throttle_rate=0.1),
    "too many messages are in flight": sqs_misbehaves("over limit", over_limit_rate=0.5),
    "the same message comes again": the_same_message_comes_again,
    "the clock is an hour fast": clock_is_off(1),
    "the clock is an hour slow": clock_is_off(-1),
    "dead letters are redriven": dead_letters_are_redriven,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nothing_is_lost_when(trial: Trial, fault: Fault) -> None:
    survive(trial, fault)


@pytest.mark.parametrize("fault", controls(FAULTS).values(), ids=controls(FAULTS))
def test_a_loader_that_deletes_before_the_commit_loses_messages_when(trial: Trial, fault: Fault) -> None:
    lose(trial, fault)
