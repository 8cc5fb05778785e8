"""KEDA's scaling of the loader, from none to the most and back, tried on the real loader by the very numbers of scaling.yaml.

The cluster is simulated: a loader is a process, a poll comes SPEED times as often as it would, and a loader is slowed down to
LOADER_RATE by the stub's round trip. The rules are those of KEDA (the ScaledObject's specification: from zero to one while a
trigger is active, back to zero a cooldown after it was last) and of the Horizontal Pod Autoscaler between one and the most
(Kubernetes' manual, "Algorithm details" and "Configurable scaling behavior").
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from benchmarks import stub
from benchmarks.stub import Stub
from tests.support import ROOT, Database

BASE = ROOT / "deploy" / "kubernetes" / "base"
SPEED = 30
ROUND_TRIP_SECONDS = 0.05
RECEIVERS = 5
LOADER_RATE = RECEIVERS * 10 / ROUND_TRIP_SECONDS  # messages a second, at most
REAL_RATE = 20 * 10 / 0.025  # the same with the loader's defaults and 25 ms to SQS
MOST = 4  # loaders at once: what a machine with two cores can run
BURST = 20_000
TOLERANCE = 0.1  # the autoscaler lets a smaller difference be
SQS_IN_FLIGHT = 120_000
CONNECTIONS = 100  # of the smallest server, and PostgreSQL's own default
RESERVED_CONNECTIONS = 20  # dbt's threads, migrations, analysts, superusers


def resource(kind: str) -> dict[str, Any]:
    found = [each for each in yaml.safe_load_all((BASE / "scaling.yaml").read_text()) if each["kind"] == kind]
    return dict(found[0])


SCALED = resource("ScaledObject")["spec"]
TRIGGER = SCALED["triggers"][0]["metadata"]
POLL_SECONDS = SCALED["pollingInterval"] / SPEED
BEHAVIOUR = SCALED["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]


def test_all_loaders_together_stay_below_what_sqs_and_postgresql_allow() -> None:
    assert SCALED["maxReplicaCount"] * 10_000 <= SQS_IN_FLIGHT  # LOADER_MAX_HELD_MESSAGES
    assert SCALED["maxReplicaCount"] + RESERVED_CONNECTIONS <= CONNECTIONS  # a loader has one


def test_kubernetes_waits_longer_than_the_loader_takes_to_finish() -> None:
    deployment = yaml.safe_load((BASE / "loader.yaml").read_text().split("---")[0])
    settings = dict(line.split("=") for line in (BASE / "settings.env").read_text().split())
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= int(settings["LOADER_GRACE_SECONDS"]) + 10


@dataclass
class Cluster:
    """Loaders as a cluster would run them, counted by the scaler's rules."""

    environment: dict[str, str]
    log: Path
    target: float
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ending: list[subprocess.Popen[bytes]] = field(default_factory=list)
    active_at: float = -math.inf
    wanted: deque[tuple[float, int]] = field(default_factory=deque)
    history: list[int] = field(default_factory=list)
    ended_under_load: int = 0

    def poll(self, messages: int) -> None:
        """One round of the scaler, which sees *messages* on the queue, in flight ones included."""
        now = time.monotonic()
        if messages > 0:
            self.active_at = now
        self.scale_to(self.replicas(messages, now), messages)
        self.history.append(len(self.running))

    def replicas(self, messages: int, now: float) -> int:
        """How many there shall be."""
        current = len(self.running)
        if not messages:
            return 0 if now - self.active_at >= SCALED["cooldownPeriod"] / SPEED else min(current, self.stabilised(1, current, now))
        if not current:
            return 1
        usage = messages / self.target / current
        desired = current if abs(usage - 1) <= TOLERANCE else math.ceil(messages / self.target)
        desired = max(1, min(desired, MOST, current + BEHAVIOUR["scaleUp"]["policies"][0]["value"]))
        return self.stabilised(desired, current, now)

    def stabilised(self, desired: int, current: int, now: float) -> int:
        """Downwards only to the most that was wanted within the window."""
        self.wanted.append((now, desired))
        while self.wanted[0][0] < now - BEHAVIOUR["scaleDown"]["stabilizationWindowSeconds"] / SPEED:
            self.wanted.popleft()
        return desired if desired >= current else min(current, max(number for _, number in self.wanted))

    def scale_to(self, replicas: int, messages: int) -> None:
        """Start or end loaders."""
        while len(self.running) < replicas:
            with self.log.open("ab") as log:
                command = [sys.executable, "-m", "loader", "follow"]
                self.running.append(subprocess.Popen(command, env=self.environment, cwd=ROOT, stdout=log, stderr=log))
        while len(self.running) > replicas:
            loader = self.running.pop()
            loader.send_signal(signal.SIGTERM)
            self.ending.append(loader)
            self.ended_under_load += messages > 0

    def end(self) -> list[int]:
        """Exit codes of all that were told to end."""
        return [loader.wait(timeout=40) for loader in self.ending]


def test_bursts_scale_the_loader_from_none_to_the_most_and_back_and_nothing_is_lost(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stub.running() as queue:
        queue.control(round_trip=ROUND_TRIP_SECONDS)
        cluster = Cluster(environment(database, queue), tmp_path / "log", int(TRIGGER["queueLength"]) * LOADER_RATE / REAL_RATE / SPEED)
        try:
            lines = [burst(cluster, queue, BURST) for _ in range(2)]
            trickled = trickle(cluster, queue)
            idle(cluster, queue)
        finally:
            for loader in cluster.running:
                loader.kill()
        codes = cluster.end()
        sent = len(lines) * BURST + trickled
        assert queue.stats()["left"] == 0
        log = cluster.log.read_text()

    assert database.rows("select count(*), count(distinct message_id) from staging.raw_logins") == [(sent, sent)]
    assert max(cluster.history) == MOST
    assert cluster.history[-1] == 0
    assert set(codes) == {0}, log[-2_000:]
    with capsys.disabled():
        print("", *lines, f"  loaders at each poll: {' '.join(map(str, cluster.history))}", sep="\n")


def environment(database: Database, queue: Stub) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "AWS_", "LOADER_", "SQS_"))}
    return (
        inherited
        | queue.environment
        | {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(database.server.port),
            "PGDATABASE": database.name,
            "LOADER_PASSWORD": database.passwords["loader"],
            "LOADER_RECEIVERS": str(RECEIVERS),
            "LOADER_HTTP_PORT": "0",
        }
    )


def on_queue(queue: Stub) -> int:
    """What KEDA's scaler counts: messages waiting and in flight."""
    client = boto3.client(
        "sqs",
        endpoint_url=queue.environment["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="stub",
        aws_secret_access_key="stub",
    )
    attributes = client.get_queue_attributes(QueueUrl=queue.environment["SQS_QUEUE_URL"], AttributeNames=["All"])["Attributes"]
    return int(attributes["ApproximateNumberOfMessages"]) + int(attributes["ApproximateNumberOfMessagesNotVisible"])


def burst(cluster: Cluster, queue: Stub, messages: int) -> str:
    """Send *messages* at once to a queue without loaders, wait until they are gone, and compare the time with the ideal."""
    idle(cluster, queue)
    queue.preload(messages)
    started = time.monotonic()
    drained = None
    while drained is None:
        cluster.poll(on_queue(queue))
        deadline = time.monotonic() + POLL_SECONDS
        while time.monotonic() < deadline:
            if queue.stats()["left"] == 0:
                drained = time.monotonic() - started
                break
            time.sleep(0.05)
    ideal = messages / (MOST * LOADER_RATE)
    times = f"{drained:.1f} s, by {MOST} loaders from the first moment in {ideal:.1f} s: ratio {drained / ideal:.2f}"
    return f"  {messages:,} messages drained in {times}"


def trickle(cluster: Cluster, queue: Stub) -> int:
    """Keep work for two loaders on the queue until one of the others has been ended, and return how many messages that took."""
    sent = 0
    while not cluster.ended_under_load:
        missing = int(1.4 * cluster.target) - on_queue(queue)
        if missing > 0:
            queue.preload(missing)
            sent += missing
        cluster.poll(on_queue(queue))
        time.sleep(POLL_SECONDS)  # the simulated clock
    return sent


def idle(cluster: Cluster, queue: Stub) -> None:
    """Poll until there is no message and no loader left."""
    while True:
        messages = on_queue(queue)
        cluster.poll(messages)
        if not messages and not cluster.running:
            return
        time.sleep(POLL_SECONDS)  # the simulated clock
