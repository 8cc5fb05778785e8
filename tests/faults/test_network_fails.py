"""What networks do to connections, to PostgreSQL and to SQS, on each leg in turn."""

import os

import pytest

from tests.faults.proxy import Direction, Proxy
from tests.faults.trial import FULL, Fault, Trial, controls, lose, survive


def network(side: str, trouble: str) -> Fault:
    def fault(trial: Trial) -> None:
        proxy = trial.to_postgres if side == "PostgreSQL" else trial.to_sqs
        # Messages whose reply got lost are hidden for this long.
        trial.stub.control(round_trip=0.02, visibility=30 if trouble == "delays" else 3)
        trial.send()
        loader = trial.start("drain", LOADER_TIMEOUT_SECONDS=30 if trouble == "delays" else 2, LOADER_RECEIVERS=4)
        for direction in ("to server", "to client"):
            before = trial.landed()
            trial.wait_for("it loads", lambda: trial.landed() > before or loader.process.poll() is not None)  # noqa: B023  # called here
            trouble_on(trial, proxy, trouble, direction)
        assert loader.wait() == os.EX_OK, loader.output()

    return fault


def trouble_on(trial: Trial, proxy: Proxy, trouble: str, direction: Direction) -> None:
    if trouble == "resets":
        proxy.reset()
        trial.proof["broken"] = proxy.counts["broken"]
    elif trouble == "is half open":
        proxy.half_open(direction)
        trial.proof["broken"] = proxy.counts["broken"]
    elif trouble == "delays":
        proxy.delay_seconds = {direction: 5 if FULL else 0.5}
        enough = proxy.counts.get("delayed", 0) + 5
        trial.wait_for("delayed", lambda: proxy.counts.get("delayed", 0) >= enough)
        trial.proof["delayed"] = proxy.counts["delayed"]
    else:
        proxy.stalled = {direction}
        trial.wait_for("stalled", lambda: proxy.counts.get("stalled", 0) > 0)
        trial.wait_for("the loader gave a connection up", lambda: "trying again" in trial.loaders[-1].output())
        trial.proof["stalled"] = proxy.counts["stalled"]
    if trouble != "is half open":
        proxy.heal()


FAULTS: dict[str, Fault] = {
    f"the network to {side} {trouble}": network(side, trouble)
    for side in ("PostgreSQL", "SQS")
    for trouble in ("resets", "stalls", "delays", "is half open")
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nothing_is_lost_when(trial: Trial, fault: Fault) -> None:
    survive(trial, fault)


@pytest.mark.parametrize("fault", controls(FAULTS).values(), ids=controls(FAULTS))
def test_a_loader_that_deletes_before_the_commit_loses_messages_when(trial: Trial, fault: Fault) -> None:
    lose(trial, fault)
