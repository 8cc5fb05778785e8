"""Nothing is lost and nothing lands twice, whatever happens.

FAULTS=full: 20,000 messages, 20 seeds, every control. Otherwise, for every `make test`, 2,000 messages, one seed, five controls.

After each fault, a loader is killed with a batch received and not committed, and another one finishes the work. The control is a
loader that deletes before it commits: the same fault must make it lose messages, or the fault would prove nothing.
"""

import pytest

from tests.faults.faults import FAULTS, KILLS, Fault
from tests.faults.trial import FULL, PERSONAL, SEEDS, Trial

CONTROLS = KILLS | FAULTS if FULL else KILLS


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", KILLS.values(), ids=KILLS)
def test_nothing_is_lost_when_the_loader_is(trial: Trial, fault: Fault, seed: int) -> None:
    survive(trial, fault, seed)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nothing_is_lost_when(trial: Trial, fault: Fault) -> None:
    survive(trial, fault)


@pytest.mark.parametrize("fault", CONTROLS.values(), ids=CONTROLS)
def test_a_loader_that_deletes_before_the_commit_loses_messages_when(trial: Trial, fault: Fault) -> None:
    trial.careless = True
    fault(trial)
    trial.kill_before_a_commit()
    assert trial.lost()


def survive(trial: Trial, fault: Fault, seed: int = 0) -> None:
    trial.random.seed(seed)
    server_log = trial.database.server.log
    server_log_start = server_log.stat().st_size

    fault(trial)
    assert trial.proof, "the fault did not prove that it happened"
    assert not trial.lost()

    trial.kill_before_a_commit()
    assert not trial.lost()

    trial.finish()
    assert not trial.lost()
    assert trial.landed() == trial.sent
    assert trial.database.value("select count(distinct message_id) from staging.raw_logins") == trial.sent
    stats = trial.stub.stats()
    assert stats["left"] == stats["in flight"] == stats["dead now"] == 0

    with server_log.open() as log:
        log.seek(server_log_start)
        logs = log.read() + "".join(loader.output() for loader in trial.loaders)
    for personal in PERSONAL:
        assert personal not in logs
