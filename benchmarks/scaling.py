"""KEDA's scaling of the loader, from none to the most and back: the real loader, by the very numbers of scaling.yaml.

The cluster is simulated: a loader is a process, a poll comes SPEED times as often as it would, and a loader is slowed down to
LOADER_RATE by the stub's round trip. The rules are those of KEDA (the ScaledObject's specification: from zero to one while a
trigger is active, back to zero a cooldown after it was last) and of the Horizontal Pod Autoscaler between one and the most
(Kubernetes' manual, "Algorithm details" and "Configurable scaling behavior").
"""

import math
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks import stub as stubs
from benchmarks.harness import ROOT, Bench, NotCountedError, Result, measure
from benchmarks.stub import Stub

SPEED = 30
ROUND_TRIP_SECONDS = 0.05
RECEIVERS = 5
LOADER_RATE = RECEIVERS * 10 / ROUND_TRIP_SECONDS  # messages a second, at most
REAL_RATE = 20 * 10 / 0.025  # the same with the loader's defaults and 25 ms to SQS
MOST = 4  # loaders at once: what a machine with two cores can run
BURSTS = 2
BURST = 20_000
TOLERANCE = 0.1  # the autoscaler lets a smaller difference be


def resource(kind: str) -> dict[str, Any]:
    """The first resource of *kind* in scaling.yaml."""
    scaling = ROOT / "deploy" / "kubernetes" / "base" / "scaling.yaml"
    return dict(next(each for each in yaml.safe_load_all(scaling.read_text()) if each["kind"] == kind))


SCALED = resource("ScaledObject")["spec"]
POLL_SECONDS = SCALED["pollingInterval"] / SPEED
BEHAVIOUR = SCALED["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
TARGET = int(SCALED["triggers"][0]["metadata"]["queueLength"]) * LOADER_RATE / REAL_RATE / SPEED  # messages for each loader


@dataclass(frozen=True, slots=True)
class Scaled:
    """What came of it: times to drain a burst over the least that MOST loaders could take, and how many there were."""

    drains: list[float]
    sent: int
    left: int
    loaders: list[int]  # at each poll
    exit_codes: list[int]
    log: str


@dataclass
class Cluster:
    """Loaders as a cluster would run them, counted by the scaler's rules."""

    environment: Mapping[str, str]
    log: Path
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
        usage = messages / TARGET / current
        desired = current if abs(usage - 1) <= TOLERANCE else math.ceil(messages / TARGET)
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


def simulate(environment: Mapping[str, str], queue: Stub, log: Path) -> Scaled:
    """Two bursts on a queue without loaders, then less work for a while, then none; what the loaders say goes to *log*."""
    queue.control(round_trip=ROUND_TRIP_SECONDS)
    cluster = Cluster(dict(environment) | {"LOADER_RECEIVERS": str(RECEIVERS), "LOADER_HTTP_PORT": "0"}, log)
    try:
        drains = [burst(cluster, queue) for _ in range(BURSTS)]
        trickled = trickle(cluster, queue)
        idle(cluster, queue)
    finally:
        for loader in cluster.running:
            loader.kill()
    return Scaled(drains, BURSTS * BURST + trickled, queue.stats()["left"], cluster.history, cluster.end(), log.read_text())


@measure
def scaling(bench: Bench) -> list[Result]:
    """How long a burst takes that meets no loader."""
    ratios = []
    for _ in range(bench.runs):
        with bench.connect() as connection, stubs.running() as queue, tempfile.TemporaryDirectory() as directory:
            connection.execute("truncate staging.raw_logins, staging.unjudged")
            scaled = simulate(bench.environment | queue.environment, queue, Path(directory) / "log")
            row = connection.execute("select count(distinct message_id) from staging.raw_logins").fetchone()
        if row != (scaled.sent,):
            raise NotCountedError(f"{scaled.sent} messages were sent, and staging has {row and row[0]}")
        ratios += scaled.drains
    return [Result(f"burst on no loader, to drained ÷ the least that {MOST} loaders could take", "ratio", ratios)]


def on_queue(queue: Stub) -> int:
    """What KEDA's scaler counts: messages waiting and in flight."""
    return queue.stats()["left"]


def burst(cluster: Cluster, queue: Stub) -> float:
    """Send BURST messages at once to a queue without loaders, wait until they are gone, and return the time over the least."""
    idle(cluster, queue)
    queue.preload(BURST)
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
    return drained / (BURST / (MOST * LOADER_RATE))


def trickle(cluster: Cluster, queue: Stub) -> int:
    """Keep work for two loaders on the queue until one of the others has been ended, and return how many messages that took."""
    sent = 0
    while not cluster.ended_under_load:
        missing = int(1.4 * TARGET) - on_queue(queue)
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
