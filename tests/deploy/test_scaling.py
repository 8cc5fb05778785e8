"""KEDA's scaling of the loader, simulated with the real loader (benchmarks/scaling.py), and the limits that it must keep to."""

from pathlib import Path

import pytest
import yaml

from benchmarks import stub
from benchmarks.scaling import MOST, SCALED, simulate
from loader.settings import LoaderSettings
from tests.support import ROOT, Database, environment

BASE = ROOT / "deploy" / "kubernetes" / "base"
SQS_IN_FLIGHT = 120_000
CONNECTIONS = 100  # of the smallest server, and PostgreSQL's own default
RESERVED_CONNECTIONS = 20  # dbt's threads, migrations, analysts, superusers


def test_all_loaders_together_stay_below_what_sqs_and_postgresql_allow() -> None:
    assert SCALED["maxReplicaCount"] * LoaderSettings.model_fields["loader_max_held_messages"].default <= SQS_IN_FLIGHT
    assert SCALED["maxReplicaCount"] + RESERVED_CONNECTIONS <= CONNECTIONS  # a loader has one


def test_kubernetes_waits_longer_than_the_loader_takes_to_finish() -> None:
    deployment = yaml.safe_load((BASE / "loader.yaml").read_text().split("---")[0])
    settings = dict(line.split("=") for line in (BASE / "settings.env").read_text().split())
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= int(settings["LOADER_GRACE_SECONDS"]) + 10


@pytest.mark.slow
def test_bursts_scale_the_loader_from_none_to_the_most_and_back_and_nothing_is_lost(database: Database, tmp_path: Path) -> None:
    with stub.running() as queue:
        scaled = simulate(environment(database) | queue.environment, queue, tmp_path / "log")
    assert scaled.left == 0
    assert database.rows("select count(*), count(distinct message_id) from staging.raw_logins") == [(scaled.sent, scaled.sent)]
    assert max(scaled.loaders) == MOST
    assert scaled.loaders[-1] == 0
    assert set(scaled.exit_codes) == {0}, scaled.log[-2_000:]
