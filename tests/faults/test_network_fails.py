"""What networks do to connections, to PostgreSQL and to SQS, on each leg in turn."""

import pytest

from tests.faults.proxy import Direction, Proxy
from tests.faults.trial import FULL, IDS, Fault, Trial, lose, survive

pytestmark = pytest.mark.slow


def network(side: str, trouble: str) -> Fault:
    def fault(trial: Trial) -> None:
        proxy = trial.to_postgres if side == "PostgreSQL" else trial.to_sqs
        trial.stub.control(round_trip=0.02)
        # A drain, for that does not leave a reply 20 s to come; it goes on for as long as there are messages.
        seconds, visibility = (30, 30) if trouble == "delays" else (1, 2)  # messages whose reply got lost are hidden for so long
        trial.start("drain", LOADER_TIMEOUT_SECONDS=seconds, LOADER_VISIBILITY_SECONDS=visibility, LOADER_RECEIVERS=4)
        for direction in ("to server", "to client"):
            before = trial.landed()
            trial.send(IDS // 2)
            trial.wait_for("it loads", lambda: trial.landed() > before)  # noqa: B023  # called here
            trouble_on(trial, proxy, trouble, direction)
        trial.wait_until_loaded()

    return fault


def trouble_on(trial: Trial, proxy: Proxy, trouble: str, direction: Direction) -> None:
    def loader_noticed() -> bool:
        # A reset of an idle connection to SQS is no trouble: it takes another one.
        return trial.troubles() > troubles or (trouble != "stalls" and proxy.counts["connections"] > connections)

    before, troubles, connections = dict(proxy.counts), trial.troubles(), proxy.counts["connections"]
    happened = {"resets": "broken", "is half open": "broken", "delays": "delayed", "stalls": "stalled"}[trouble]
    if trouble == "resets":
        proxy.reset()
    elif trouble == "is half open":
        proxy.half_open(direction)
    elif trouble == "delays":
        proxy.delay_seconds = {direction: 5 if FULL else 0.2}
    else:
        proxy.stalled = {direction}
    enough = before.get(happened, 0) + (5 if trouble == "delays" else 1)
    trial.wait_for(happened, lambda: proxy.counts.get(happened, 0) >= enough)
    if trouble != "delays":
        trial.wait_for("the loader has noticed", loader_noticed)
    if trouble != "is half open":
        proxy.heal()
    trial.proof[direction] = proxy.counts[happened] - before.get(happened, 0)


FAULTS: dict[str, Fault] = {
    f"the network to {side} {trouble}": network(side, trouble)
    for side in ("PostgreSQL", "SQS")
    for trouble in ("resets", "stalls", "delays", "is half open")
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nothing_is_lost_when(trial: Trial, fault: Fault) -> None:
    survive(trial, fault)


def test_control_a_loader_that_deletes_before_the_commit_loses_messages(trial: Trial) -> None:
    lose(trial, FAULTS["the network to PostgreSQL resets"])
