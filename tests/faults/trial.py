"""One run of the loader through a fault: a queue, a database, networks between them, and the count at the end.

FAULTS=full: 20,000 messages, 20 seeds for each kill, every control. Otherwise: 2,000 messages, one seed, one control
for each file.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.stub import Stub
from sandbox import postgres, processes
from sandbox.processes import wait_until
from tests.faults.proxy import Direction, Proxy
from tests.support import ROOT, Database

FULL = os.environ.get("FAULTS") == "full"
IDS = 20_000 if FULL else 2_000
SEEDS = range(20 if FULL else 1)
BATCH = IDS // 10
WAIT_SECONDS = 60
# What the stub's messages have, and no log may have.
PERSONAL = ("198.51.100.", '"ip"', "device_id", "user_id")


@dataclass
class Trial:
    """What a fault acts on. Every loader reaches both servers through the proxies alone."""

    stub: Stub
    database: Database
    to_postgres: Proxy
    to_sqs: Proxy
    directory: Path
    seed: int = 0
    careless: bool = False
    loaders: list["Loader"] = field(default_factory=list)
    proof: dict[str, Any] = field(default_factory=dict)
    sent: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311  # the same moments in every run

    def send(self, messages: int = IDS, sent_ms: int | None = None) -> None:
        self.stub.preload(messages, sent_ms)
        self.sent += messages

    def start(self, command: str = "follow", **settings: float) -> "Loader":
        """Start a loader; *settings* are its LOADER_* variables."""
        module = "tests.faults.careless" if self.careless else "loader"
        variables = {
            "LOADER_BATCH_MESSAGES": BATCH,
            "LOADER_BATCH_SECONDS": 0.1,
            "LOADER_MAX_HELD_MESSAGES": IDS,
            "LOADER_HTTP_PORT": 0,
        } | settings
        log = self.directory / f"loader-{len(self.loaders)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, command],
                cwd=ROOT,
                env=self.environment | {name: str(value) for name, value in variables.items()},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        loader = Loader(process, log)
        self.loaders.append(loader)
        return loader

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "AWS_", "LOADER_", "SQS_"))}
        sqs = dataclasses.replace(self.stub, port=self.to_sqs.port).environment
        return {
            **inherited,
            **sqs,
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.to_postgres.port),
            "PGDATABASE": self.database.name,
            "PGSSLMODE": "disable",
            "PGGSSENCMODE": "disable",
            "LOADER_PASSWORD": self.database.passwords["loader"],
            "PYTHONPATH": str(ROOT),
        }

    # ── what has come of the messages ────────────────────────────────────────────────────────────────────────────────

    def landed(self) -> int:
        """How many messages are in staging."""
        count: int = self.database.value("select count(*) from staging.raw_logins")
        return count

    def lost(self) -> set[str]:
        """The ids that were deleted from the queue and are not in staging."""
        deleted = self.stub.deleted()
        return deleted - {message_id for (message_id,) in self.database.rows("select message_id from staging.raw_logins")}

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        assert wait_until(condition, WAIT_SECONDS), f"waited {WAIT_SECONDS} s for: {what}; {self.stub.stats()}"

    def wait_for_stub(self, what: str, at_least: int = 1) -> None:
        """Wait until the stub has counted *what*, and keep the number as proof."""
        self.wait_for(what, lambda: self.stub.stats().get(what, 0) >= at_least)
        self.proof[what] = self.stub.stats()[what]

    # ── moments ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def hold_at(self, moment: "Moment", batch: int = 1) -> None:
        """Have the connection to PostgreSQL stand still at *moment* of the *batch*-th batch from now on."""
        seen = 0

        def is_it(direction: Direction, kind: bytes, content: bytes) -> bool:
            nonlocal seen
            seen += moment(direction, kind, content)
            return seen == batch and moment(direction, kind, content)

        self.to_postgres.hold_at(is_it)

    def wait_until_held(self) -> None:
        assert self.to_postgres.held.wait(WAIT_SECONDS), f"the moment never came; {self.stub.stats()}"
        self.proof["held"] = self.proof.get("held", 0) + 1

    def kill(self, loader: "Loader") -> None:
        """kill -9, and what was held on its way to PostgreSQL never arrives."""
        loader.kill()
        self.to_postgres.reset()

    def kill_before_a_commit(self) -> None:
        """Kill a loader that has received a batch and not committed it, as the last straw of every fault."""
        self.to_postgres.heal()
        self.to_sqs.heal()
        self.stub.control(visibility=1)
        self.hold_at(before_commit)
        self.send(BATCH)
        loader = self.start()
        self.wait_until_held()
        self.kill(loader)
        self.to_postgres.heal()

    def finish(self) -> None:
        """Drain what is left with a loader that nothing happens to."""
        loader = self.start("drain")
        assert loader.wait() == os.EX_OK, loader.output()

    def restart_postgres(self, shutdown: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server (SIGQUIT: `immediate`, as a crash) and start it again."""
        server = self.database.server
        before = processes.find(server.record)
        assert before
        before.send_signal(shutdown)
        before.wait(WAIT_SECONDS)
        assert postgres.start(server)
        self.proof["restarts"] = self.proof.get("restarts", 0) + 1


@dataclass(frozen=True)
class Loader:
    """A loader's process and its output."""

    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """kill -9."""
        assert self.process.poll() is None, f"it had ended by itself: {self.output()}"
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(WAIT_SECONDS * 2)

    def output(self) -> str:
        return self.log.read_text()

    def cpu_share(self, seconds: float) -> float:
        """Measure which share of one core it uses for *seconds*."""
        process = psutil.Process(self.process.pid)
        before = process.cpu_times()
        time.sleep(seconds)  # what is measured is this very time
        after = process.cpu_times()
        return (after.user + after.system - before.user - before.system) / seconds

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output().splitlines() if line.startswith("{")]


# What production does to a loader. It acts on a trial, proves in `trial.proof` that it happened, and ends its loaders.
Fault = Callable[[Trial], None]


def survive(trial: Trial, fault: Fault, seed: int = 0) -> None:
    """Nothing is lost and nothing lands twice.

    After the fault, a loader is killed with a batch received and not committed, and another one finishes the work.
    """
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


def lose(trial: Trial, fault: Fault) -> None:
    """The control: a loader that deletes before it commits loses messages, or the fault would prove nothing."""
    trial.careless = True
    fault(trial)
    trial.kill_before_a_commit()
    assert trial.lost()


def controls(faults: dict[str, Fault]) -> dict[str, Fault]:
    """The faults to run with the control: all, or in the short form the first."""
    return faults if FULL else dict(itertools.islice(faults.items(), 1))


@contextlib.contextmanager
def commits_blocked(trial: Trial) -> Iterator[None]:
    """No transaction that inserts into staging can end. The loader, which must have been started, has made its connection."""
    trial.wait_for_stub("ReceiveMessage")
    with trial.database.connect(autocommit=False) as connection:
        connection.execute("lock table staging.raw_logins in share mode")
        yield
        connection.rollback()


Moment = Callable[[Direction, bytes, bytes], bool]


def mid_copy(direction: Direction, kind: bytes, _content: bytes) -> bool:
    return direction == "to server" and kind == b"d"


def before_copy(direction: Direction, kind: bytes, content: bytes) -> bool:
    return direction == "to server" and kind in b"QP" and b"copy pg_temp" in content


def before_commit(direction: Direction, kind: bytes, content: bytes) -> bool:
    return direction == "to server" and kind in b"QP" and content.rstrip(b"\0").upper().endswith(b"COMMIT")


def after_commit(direction: Direction, kind: bytes, content: bytes) -> bool:
    return direction == "to client" and kind == b"C" and content == b"COMMIT\0"
