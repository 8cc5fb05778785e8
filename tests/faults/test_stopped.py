"""Loaders are told to stop, one or many."""

import os
import signal

import pytest

from tests.faults.trial import FULL, Fault, Trial, commits_blocked, lose, survive


def terminated_under_load(trial: Trial) -> None:
    """It lands and deletes what it holds, and gives back what it cannot land: nothing stays hidden from others."""
    trial.stub.control(round_trip=0.1)
    trial.send()
    loader = trial.start(LOADER_RECEIVERS=4)
    trial.wait_for("it loads", lambda: trial.landed() > 0)
    assert loader.terminate() == os.EX_OK, loader.output()
    trial.proof["left"] = trial.stub.stats()["left"]
    assert trial.proof["left"] > 0
    assert trial.stub.stats()["in flight"] == 0


def terminated_while_commits_hang(trial: Trial) -> None:
    loader = trial.start(LOADER_GRACE_SECONDS=6)
    with commits_blocked(trial):
        trial.send()
        trial.wait_for_stub("handed out", trial.sent // 2)
        assert loader.terminate() == os.EX_OK, loader.output()
        trial.wait_for_stub("released", trial.sent // 2)
        assert trial.stub.stats()["in flight"] == 0


def four_loaders_come_and_go(trial: Trial) -> None:
    trial.stub.control(round_trip=0.05)
    trial.send()
    loaders = [trial.start(LOADER_RECEIVERS=2, LOADER_VISIBILITY_SECONDS=2) for _ in range(4)]
    for turn in range(30 if FULL else 6):
        trial.wait_for("they load", lambda: trial.landed() > min(turn, trial.sent - 1))  # noqa: B023  # called here
        loader = loaders.pop(trial.random.randrange(4))
        if trial.random.random() < 0.5:
            loader.kill()
            trial.proof["killed"] = trial.proof.get("killed", 0) + 1
        else:
            loader.signal(trial.random.choice((signal.SIGTERM, signal.SIGINT)))
            trial.proof["stopped"] = trial.proof.get("stopped", 0) + 1
        loaders.append(trial.start(LOADER_RECEIVERS=2, LOADER_VISIBILITY_SECONDS=2))
    for loader in loaders:
        loader.signal(signal.SIGTERM)
    for loader in loaders:
        # The youngest may not have begun yet, or not even have learnt to take a signal.
        assert loader.wait() in {os.EX_OK, os.EX_TEMPFAIL, -signal.SIGTERM}, loader.output()


FAULTS: dict[str, Fault] = {
    "terminated under load": terminated_under_load,
    "terminated while commits hang": terminated_while_commits_hang,
    "four loaders come and go": four_loaders_come_and_go,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nothing_is_lost_when(trial: Trial, fault: Fault) -> None:
    survive(trial, fault)


def test_control_a_loader_that_deletes_before_the_commit_loses_messages(trial: Trial) -> None:
    lose(trial, FAULTS["terminated under load"])
