"""kill -9, at every point where it could matter."""

import pytest

from tests.faults.trial import SEEDS, Fault, Moment, Trial, after_commit, before_commit, before_copy, lose, mid_copy, survive


def killed_at(moment: Moment) -> Fault:
    def fault(trial: Trial) -> None:
        trial.hold_at(moment, batch=trial.random.randint(1, 8))
        trial.send()
        loader = trial.start()
        trial.wait_until_held()
        trial.kill(loader)

    return fault


def killed_mid_delete(trial: Trial) -> None:
    """The deletes under way are done, but not answered."""
    trial.stub.control(hold=["DeleteMessageBatch"])
    trial.send()
    loader = trial.start(LOADER_RECEIVERS=trial.random.randint(1, 20))
    trial.wait_for_stub("held DeleteMessageBatch")
    loader.kill()
    trial.stub.control(hold=[])
    trial.lapse()
    trial.wait_for("some are deleted, and some are not", lambda: 0 < trial.stub.stats()["deleted"] < trial.sent)


FAULTS: dict[str, Fault] = {
    "after receive": killed_at(before_copy),
    "mid-COPY": killed_at(mid_copy),
    "before commit": killed_at(before_commit),
    "between commit and delete": killed_at(after_commit),
    "mid-delete": killed_mid_delete,
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nothing_is_lost_when_the_loader_is_killed(trial: Trial, fault: Fault, seed: int) -> None:
    survive(trial, fault, seed)


def test_control_a_loader_that_deletes_before_the_commit_loses_messages(trial: Trial) -> None:
    lose(trial, FAULTS["before commit"])
