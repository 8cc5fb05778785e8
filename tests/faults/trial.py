"""One run of the loader through a fault: a queue, a database, networks between them, and the count at the end.

FAULTS=full (`make test-faults`): 20,000 messages, and 20 seeds for each kill. Otherwise: 2,000 messages, and one seed.
"""

import contextlib
import dataclasses
import datetime as dt
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import stub as stubs
from benchmarks.stub import Stub
from loader.migrate import migrate
from sandbox import postgres, processes
from sandbox.postgres import Postgres
from sandbox.processes import wait_until
from tests import forks, support
from tests.faults import forked_loader
from tests.proxies import DIRECTIONS, Direction, Proxy, forwarding
from tests.support import DATABASE_FILES, Database, Running

FULL = os.environ.get("FAULTS") == "full"
IDS = 20_000 if FULL else 2_000
BATCH = IDS // 10
WAIT_SECONDS = 60
MIGRATED, PASSWORD = "migrated", "made-up"
# A loader runs, or it is done, or it says 75 when it was stopped before that. One that got a signal before it began is not yet the one to
# answer, and Python says 1, 130 or the signal.
ENDS = {None, os.EX_OK, os.EX_TEMPFAIL, 1, 128 + signal.SIGINT, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}
# What the stub's messages have, and no log may have.
PERSONAL = ("198.51.100.", '"ip"', "device_id", "user_id")


@dataclass
class Trial:
    """What a fault acts on. Every loader reaches both servers through the proxies alone, and lacks what *without* says."""

    stub: Stub
    database: Database
    to_postgres: Proxy
    to_sqs: Proxy
    directory: Path
    without: str = ""
    loaders: list[Running] = field(default_factory=list)
    proof: dict[str, Any] = field(default_factory=dict)
    sent: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(0)  # noqa: S311  # the same moments in every run

    def send(self, messages: int = IDS, sent_at: dt.datetime | None = None) -> None:
        self.stub.preload(messages, int(sent_at.timestamp() * 1000) if sent_at else None)
        self.sent += messages

    def start(self, command: str = "follow", clock_hours: float = 0, **settings: float) -> Running:
        """Start a loader whose clock is *clock_hours* fast; *settings* are its LOADER_* variables."""
        variables = {
            "LOADER_BATCH_MESSAGES": BATCH,
            "LOADER_BATCH_SECONDS": 0.1,
            "LOADER_MAX_HELD_MESSAGES": IDS,
            "LOADER_HTTP_PORT": 0,
            "PGPORT": self.to_postgres.port,
            "PGSSLMODE": "disable",
            "PGGSSENCMODE": "disable",
        } | settings
        of_queue = dataclasses.replace(self.stub, port=self.to_sqs.port).environment
        environ = support.environment(self.database) | of_queue | {name: str(value) for name, value in variables.items()}
        log = self.directory / f"loader-{len(self.loaders)}.log"
        log.touch()
        self.loaders.append(Running(forks.start(forked_loader.load, environ, log, command, self.without, clock_hours), log))
        return self.loaders[-1]

    def alive(self) -> list[Running]:
        return [loader for loader in self.loaders if loader.process.is_alive()]

    # ── what has come of the messages ────────────────────────────────────────────────────────────────────────────────

    def landed(self) -> int:
        """How many messages are in staging."""
        count: int = self.database.value("select count(*) from staging.raw_logins")
        return count

    def lost(self) -> set[str]:
        """The ids that were deleted from the queue and are not in staging."""
        deleted = self.stub.deleted()
        return deleted - {message_id for (message_id,) in self.database.rows("select message_id from staging.raw_logins")}

    def failed(self) -> str:
        """What the loaders said that ended in an error."""
        return "".join(loader.output for loader in self.loaders if loader.process.exitcode not in ENDS)

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        came = wait_until(lambda: bool(condition() or self.failed()), WAIT_SECONDS) and not self.failed()
        assert came, f"waited for: {what}; {self.failed()}; {self.stub.stats()}"

    def wait_for_stub(self, what: str, at_least: int = 1) -> None:
        """Wait until the stub has counted *what*, and keep the number as proof."""
        self.wait_for(what, lambda: self.stub.stats().get(what, 0) >= at_least)
        self.proof[what] = self.stub.stats()[what]

    def wait_until_loaded(self) -> None:
        """Wait until the loader that runs has landed and deleted everything by itself."""
        self.wait_for("all has landed and is deleted", lambda: not self.stub.stats()["left"])
        assert self.landed() == self.sent

    # ── moments ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def load_until(self, moment: "Moment", batch: int = 1) -> Running:
        """Start a loader whose connection to PostgreSQL stands still at *moment* of its *batch*-th batch, and wait for that."""
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
        loader = self.start()
        self.wait_for("the moment", self.to_postgres.held.is_set)
        self.proof["held"] = self.proof.get("held", 0) + 1
        return loader

    def kill(self, loader: Running) -> None:
        """kill -9; what was held on its way to PostgreSQL never arrives, and what it had received is visible again."""
        loader.end(signal.SIGKILL)
        self.to_postgres.reset()
        self.to_postgres.heal()
        self.lapse()

    def lapse(self) -> None:
        """End the visibility time-outs of a loader that is gone; a receive of it that is still under way would start new ones."""
        if not self.alive():
            self.wait_for("its connections have ended", lambda: not self.to_sqs.pairs and self.stub.stats())
        self.stub.lapse()

    def finish(self) -> None:
        """Have what is left loaded by a loader that nothing happens to, and stop all."""
        self.to_postgres.heal()
        self.to_sqs.heal()
        if not self.alive():
            self.start()
        self.wait_for("the queue is empty", lambda: not self.stub.stats()["left"])
        for loader in self.alive():
            loader.end(signal.SIGKILL)
        self.lapse()  # also waits until no receive can take a message any more


@contextlib.contextmanager
def serving(directory: Path, settings: dict[str, str], passwords: Mapping[str, str]) -> Iterator[Postgres]:
    """A server under *directory* with `database/` applied to a database of it."""
    server = Postgres(directory, processes.free_port(), "postgres", PASSWORD)
    try:
        postgres.start(server, settings)
        with server.connect() as connection:
            connection.execute(f"create database {MIGRATED}".encode())
        with server.connect(MIGRATED) as connection:
            migrate(connection, DATABASE_FILES, passwords)
        yield server
    finally:
        postgres.stop(server)


@contextlib.contextmanager
def trying(database: Database, directory: Path) -> Iterator[Trial]:
    """A trial of loaders of its own queue into *database*."""
    to_postgres = Proxy(database.server.port, is_postgres=True)
    with stubs.running() as stub, forwarding(to_postgres), forwarding(Proxy(stub.port)) as to_sqs:
        trial = Trial(stub, database, to_postgres, to_sqs, directory)
        try:
            yield trial
        finally:
            for loader in trial.loaders:
                loader.process.kill()
                loader.process.join()


# What production does to a loader. It acts on a trial, and proves in `trial.proof` that it happened.
Fault = Callable[[Trial], None]


def survive(trial: Trial, fault: Fault) -> None:
    """Nothing is lost and nothing lands twice, whatever is left after the fault is loaded, and no log has anything personal."""
    server_log = trial.database.server.log
    server_log_start = server_log.stat().st_size

    fault(trial)
    assert trial.proof, "the fault did not prove that it happened"
    assert not trial.lost()

    trial.finish()
    assert not trial.lost()
    assert trial.landed() == trial.sent
    assert trial.database.value("select count(distinct message_id) from staging.raw_logins") == trial.sent
    stats = trial.stub.stats()
    assert stats["left"] == stats["in flight"] == stats["dead now"] == 0
    with server_log.open() as log:
        log.seek(server_log_start)
        logs = log.read() + "".join(loader.output for loader in trial.loaders)
    assert not [personal for personal in PERSONAL if personal in logs]
    assert not trial.failed()


Moment = Callable[[Direction, bytes, bytes], bool]
TO_SERVER, TO_CLIENT = DIRECTIONS


def mid_copy(direction: Direction, kind: bytes, _content: bytes) -> bool:
    return direction == TO_SERVER and kind == b"d"


def before_copy(direction: Direction, kind: bytes, content: bytes) -> bool:
    return direction == TO_SERVER and kind in b"QP" and b"copy pg_temp" in content


def before_commit(direction: Direction, kind: bytes, content: bytes) -> bool:
    return direction == TO_SERVER and kind in b"QP" and content.rstrip(b"\0").upper().endswith(b"COMMIT")


def after_commit(direction: Direction, kind: bytes, content: bytes) -> bool:
    return direction == TO_CLIENT and kind == b"C" and content == b"COMMIT\0"
