"""How long after a login was sent an analyst can see it, with the loader and dbt as services, and what dbt's costs meanwhile."""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg

from benchmarks import stub as stubs
from benchmarks.harness import ROOT, Bench, NotCountedError, Result, measure
from benchmarks.stub import Stub
from sandbox.processes import wait_until

RATES = (100, 1_000)  # messages a second
TICK_SECONDS = 0.05  # from one look to the next, and from one sending to the next
IDLE_SECONDS = 30
PATIENCE_SECONDS = 60
LATE_SECONDS = 30  # a message that becomes visible so much later than one that was sent after it is not found
NEWEST = "select max(sent_at) from marts.user_logins"
SINCE = "select message_id, extract(epoch from sent_at) from marts.user_logins where sent_at > %s - make_interval(secs => %s)"


@contextlib.contextmanager
def _following(bench: Bench, stub: Stub) -> Iterator[psutil.Process]:
    """The loader and dbt as services, and dbt's process."""
    with tempfile.TemporaryDirectory() as target:
        environment = bench.environment | stub.environment | {"LOADER_HTTP_PORT": "0", "DBT_TARGET_PATH": target, "DO_NOT_TRACK": "1"}
        commands = [[sys.executable, "-m", name, "follow"] for name in ("loader", "transform")]
        services = [subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL) for command in commands]
        try:
            if not wait_until((Path(target) / "up_to_date").exists, PATIENCE_SECONDS):
                raise NotCountedError("dbt's service has not begun")
            yield psutil.Process(services[1].pid)
        finally:
            for service in services:
                service.terminate()
            for service in services:
                service.wait()


def _cpu_seconds(process: psutil.Process) -> float:
    """CPU time of *process* and of its children that have ended."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _seconds_until_visible(connection: psycopg.Connection, stub: Stub, rate: int, seconds: float) -> list[float]:
    """Send *rate* messages a second for so many *seconds*; return for each how long it took to be visible."""
    found: dict[str, float] = {}
    began, sent, newest = time.monotonic(), 0, None
    while sent < rate * seconds or len(found) < sent:
        elapsed = time.monotonic() - began
        if elapsed > seconds + PATIENCE_SECONDS:
            raise NotCountedError(f"{sent:,} messages were sent, and {len(found):,} are visible")
        if due := int(min(elapsed, seconds) * rate) - sent:
            stub.preload(due)
            sent += due
        (now_newest,) = connection.execute(NEWEST).fetchone() or (None,)
        if now_newest != newest:
            visible_at = time.time()
            for message_id, sent_at in connection.execute(SINCE, [newest or now_newest, LATE_SECONDS]):
                found.setdefault(message_id, visible_at - float(sent_at))
            newest = now_newest
        time.sleep(TICK_SECONDS)
    return list(found.values())


@measure
def freshness(bench: Bench) -> list[Result]:
    """From sending to being visible, and the CPU that dbt's service takes for it."""
    results = []
    with stubs.running() as stub, bench.connect() as connection, _following(bench, stub) as dbt:
        before = _cpu_seconds(dbt)
        time.sleep(IDLE_SECONDS)
        idle = (_cpu_seconds(dbt) - before) * 60 / IDLE_SECONDS
        for rate in RATES:
            connection.execute("truncate marts.user_logins, marts.rejected_logins, staging.raw_logins, staging.unjudged")
            before, began = _cpu_seconds(dbt), time.monotonic()
            waited = statistics.quantiles(_seconds_until_visible(connection, stub, rate, bench.seconds), n=100)
            share = (_cpu_seconds(dbt) - before) / (time.monotonic() - began)
            what = f"at {rate:,} messages a second"
            results += [
                Result(f"from sent to visible, half of all, {what}", "s", [waited[49]]),
                Result(f"from sent to visible, 99 in 100, {what}", "s", [waited[98]], at_most=4),
                Result(f"  CPU of dbt's service, {what}", "share of a core", [share], at_most=1 / 3),
            ]
    return [*results, Result("CPU of dbt's service while nothing comes", "s a minute", [idle], at_most=0.5)]
