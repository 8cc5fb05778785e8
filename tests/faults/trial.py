"""One run of the loader through a fault: a queue, a database, networks between them, and the count at the end.

FAULTS=full (`make test-faults`): 20,000 messages, and 20 seeds for each kill. Otherwise: 2,000 messages, and one seed.
"""

import contextlib
import dataclasses
import functools
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from benchmarks.stub import Stub
from sandbox import postgres
from sandbox.processes import wait_until
from tests import forks, support
from tests.faults import forked_loader
from tests.faults.proxy import Direction, Proxy
from tests.support import Database

FULL = os.environ.get("FAULTS") == "full"
IDS = 20_000 if FULL else 2_000
SEEDS = range(20 if FULL else 1)
BATCH = IDS // 10
WAIT_SECONDS = 60
# A loader runs, or it is done, or it says 75 when it was stopped before that.
ENDS = {None, os.EX_OK, os.EX_TEMPFAIL}
# One that got a signal before it began is not yet the one to answer, and Python says 1, 130 or the signal.
ENDS_OF_SIGNALLED = ENDS | {128 + signal.SIGINT, 1, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}
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

    def start(self, command: str = "follow", clock_hours: float = 0, **settings: float) -> "Loader":
        """Start a loader whose clock is *clock_hours* fast; *settings* are its LOADER_* variables."""
        variables = {
            "LOADER_BATCH_MESSAGES": BATCH,
            "LOADER_BATCH_SECONDS": 0.1,
            "LOADER_MAX_HELD_MESSAGES": IDS,
            "LOADER_HTTP_PORT": 0,
        } | settings
        environ = self.environment | {name: str(value) for name, value in variables.items()}
        log = self.directory / f"loader-{len(self.loaders)}.log"
        log.touch()
        work = functools.partial(forked_loader.load, command, is_careless=self.careless, clock_hours=clock_hours)
        loader = Loader(forks.start(work, environ, log), log)
        self.loaders.append(loader)
        return loader

    def troubles(self) -> int:
        """How often the loaders said that something failed that they try again."""
        return sum(loader.output().count("trying again") for loader in self.loaders)

    def running(self) -> "Loader":
        """The loader that runs, or else a new one."""
        return next((loader for loader in self.loaders if loader.process.is_alive()), None) or self.start()

    @property
    def environment(self) -> dict[str, str]:
        return (
            support.environment(self.database)
            | dataclasses.replace(self.stub, port=self.to_sqs.port).environment
            | {
                "PGPORT": str(self.to_postgres.port),
                "PGSSLMODE": "disable",
                "PGGSSENCMODE": "disable",
            }
        )

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
        came = wait_until(lambda: condition() or bool(self.failed()), WAIT_SECONDS) and not self.failed()
        assert came, f"waited for: {what}; {self.failed()}; {self.stub.stats()}"

    def failed(self) -> str:
        """What the loaders said that ended in an error."""
        return "".join(loader.output() for loader in self.loaders if loader.process.exitcode not in loader.ends)

    def wait_until_loaded(self) -> None:
        """Wait until the loader that runs has landed and deleted everything by itself. A careless one need not."""
        if not self.careless:
            self.wait_for("all has landed and is deleted", lambda: not self.stub.stats()["left"])
            assert self.landed() == self.sent

    def wait_for_stub(self, what: str, at_least: int = 1) -> None:
        """Wait until the stub has counted *what*, and keep the number as proof."""
        self.wait_for(what, lambda: self.stub.stats().get(what, 0) >= at_least)
        self.proof[what] = self.stub.stats()[what]

    # ── moments ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def hold_at(self, moment: "Moment", batch: int = 1) -> None:
        """Have the connection to PostgreSQL stand still at *moment* of the *batch*-th batch from now on."""
        seen = 0
        copied = False  # an empty batch is committed too, to see whether it can be

        def is_it(direction: Direction, kind: bytes, content: bytes) -> bool:
            nonlocal seen, copied
            copied = copied or mid_copy(direction, kind, content)
            is_moment = moment(direction, kind, content) and (copied or moment is before_copy)
            copied = copied and not after_commit(direction, kind, content)
            seen += is_moment
            return seen == batch and is_moment

        self.to_postgres.hold_at(is_it)

    def wait_until_held(self) -> None:
        self.wait_for("the moment", self.to_postgres.held.is_set)
        self.proof["held"] = self.proof.get("held", 0) + 1

    def kill(self, loader: "Loader") -> None:
        """kill -9; what was held on its way to PostgreSQL never arrives, and what it had received is visible again."""
        loader.kill()
        self.to_postgres.reset()
        self.to_postgres.heal()
        self.lapse()

    def lapse(self) -> None:
        """End the visibility time-outs of a loader that is gone; a receive of it that is still under way would start new ones."""
        if not any(loader.process.is_alive() for loader in self.loaders):
            self.wait_for("its connections have ended", lambda: not self.to_sqs.pairs and bool(self.stub.stats()))
        self.stub.lapse()

    def kill_before_a_commit(self) -> None:
        """Kill the loader when it has received a batch and not committed it, as the last straw of every fault."""
        self.to_postgres.heal()
        self.to_sqs.heal()
        self.hold_at(before_commit)
        self.send(BATCH)
        # A drain may be just about to end.
        self.wait_for("a commit", lambda: self.running().process.is_alive() and self.to_postgres.held.is_set())
        self.kill(self.running())

    def finish(self) -> None:
        """Have what is left loaded by a loader that nothing happens to."""
        loader = self.start()
        self.wait_for("the queue is empty", lambda: not self.stub.stats()["left"])
        loader.kill()
        self.lapse()  # also waits until no receive of it can take a message any more

    def restart_postgres(self, shutdown: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server (SIGQUIT: `immediate`, as a crash) and start it again."""
        server = self.database.server
        before = server.process
        assert before
        before.send_signal(shutdown)
        before.wait(WAIT_SECONDS)
        assert postgres.start(server)
        self.proof["restarts"] = self.proof.get("restarts", 0) + 1


@dataclass
class Loader:
    """A loader's process and its output."""

    process: ForkServerProcess
    log: Path
    ends: set[int | None] = field(default_factory=lambda: ENDS)

    def signal(self, number: signal.Signals) -> None:
        """Send it the signal."""
        self.ends = ENDS_OF_SIGNALLED
        os.kill(self.process.pid or 0, number)

    def kill(self) -> None:
        """kill -9."""
        assert self.process.is_alive(), f"it had ended by itself: {self.output()}"
        self.signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        self.process.join(WAIT_SECONDS * 2)
        assert self.process.exitcode is not None, f"it did not end: {self.output()}"
        return self.process.exitcode

    def output(self) -> str:
        return self.log.read_text()

    def cpu_seconds(self) -> float:
        """What it has used so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

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
    assert not trial.failed()


def lose(trial: Trial, fault: Fault) -> None:
    """The control: of a loader that deletes before it commits, and dies once the fault is over, the same count says that it lost messages.

    Many a fault loses nothing by itself, even so: what is in memory lands later. `lost by the fault` says how many this one cost.
    """
    trial.careless = True
    fault(trial)
    assert trial.proof, "the fault did not prove that it happened"
    trial.proof["lost by the fault"] = len(trial.lost())
    trial.kill_before_a_commit()
    trial.proof["lost"] = len(trial.lost())
    assert trial.proof["lost"]


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
