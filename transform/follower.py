"""Looks every second whether something waits, and has dbt judge and mask it."""

import functools
import os
import shutil
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing import connection as connections
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import psycopg

from loader.errors import LoaderError, backoff_seconds, first_line
from loader.login import password_for, refusal
from loader.report import tell, warn
from loader.settings import TransformSettings
from transform import dbt

LOOK_SECONDS = 1.0
PACE_SECONDS = 1.5  # from the start of a run to that of the next
MAX_BACKOFF_SECONDS = 60.0
TOKEN_SECONDS = 300  # RDS takes a token for 900, and a run connects anew for each model
MINUTE_SECONDS = 60
WAITING = "select exists (select from staging.unjudged)"
STAMP = "%Y-%m-%dT%H.%M.%S.%f"


@dataclass
class Command:
    """One of dbt's commands. One process of it runs at a time, in a folder of its own; times are by `time.monotonic()`."""

    words: tuple[str, ...]
    pace_seconds: float
    failures: int = 0  # in a row
    due_at: float = 0.0
    started_at: float = 0.0
    process: ForkProcess | None = None
    folder: Path = field(default_factory=Path)


class Follower:
    """Runs the models as soon as something waits and, beside them, the tests of the last day now and then."""

    def __init__(self, settings: TransformSettings, options: tuple[str, ...] = ()) -> None:
        """Add *options* to each of dbt's commands."""
        self.settings, self.project, self.stopped = settings, dbt.Project(options), False
        self.runs = self.project.target / "runs"
        self.alive, self.up_to_date = self.project.target / "alive", self.project.target / "up_to_date"  # touched while it is so
        self.models = Command(("run", "--selector", "each_run"), PACE_SECONDS)
        # one thread: each test reads the whole last day, and the models are to get a core of the server
        self.tests = Command(("test", "--selector", "each_run", "--threads", "1"), settings.transform_test_seconds)
        self.untested = False  # whether there was a run since the tests
        self.failed_looks = 0  # in a row
        self.tidied_until = self.told_until = 0.0
        self.connection: psycopg.Connection[Any] | None = None

    def stop(self, *_: Any) -> None:
        """Handle a signal: start nothing more."""
        self.stopped = True

    def follow(self) -> None:
        """Run until stopped; parse the project again when a file of it has changed."""
        self.alive.parent.mkdir(parents=True, exist_ok=True)
        parsed = None
        while not self.stopped:
            self.alive.touch()
            if (files := self.project.files()) == parsed:
                self.look()
            elif not self.running():
                self.parse()
                parsed = files
            running = self.running()
            for sentinel in running.keys() & connections.wait(list(running), LOOK_SECONDS):
                self.end(running[sentinel])
        self.finish()

    def parse(self) -> None:
        """Have dbt parse the project; while it refuses, nothing runs."""
        began = time.monotonic()
        try:
            self.project.parse()
        except ValueError as error:
            warn("dbt refuses the project", str(error))
            return
        seconds = round(time.monotonic() - began, 1)
        tell("project parsed", f"project parsed in {seconds} s", {"seconds": seconds})

    def running(self) -> dict[Any, Command]:
        """The commands that run, by what tells that they have ended."""
        return {command.process.sentinel: command for command in (self.models, self.tests) if command.process}

    def look(self) -> None:
        """Start what is due."""
        if not self.project.manifest:
            return
        now = time.monotonic()
        if now >= self.models.due_at and not self.models.process and (waits := self.waits()) is not None:
            if waits:
                self.start(self.models)
            else:
                self.models.failures = 0
                self.say_up_to_date()
        if self.untested and now >= self.tests.due_at and not self.tests.process and not self.failed_looks:
            self.untested = False
            self.start(self.tests)
        if now >= self.tidied_until:
            self.tidied_until = now + MINUTE_SECONDS
            self.tidy()

    def waits(self) -> bool | None:
        """Whether a message waits; None while PostgreSQL does not say, which is told once."""
        try:
            password = _password()  # if AWS gives no token, that is no answer, too
            self.connection = self.connection or _connect(password)
            (waits,) = self.connection.execute(WAITING).fetchone() or (False,)
        except (psycopg.Error, LoaderError) as error:
            if not self.failed_looks:
                warn("no answer from PostgreSQL", first_line(error))
            if self.connection:
                self.connection.close()
            self.connection = None
            self.failed_looks += 1
            self.models.due_at = time.monotonic() + backoff_seconds(self.failed_looks)
            return None
        if self.failed_looks:
            self.failed_looks = 0
            tell("PostgreSQL answers again")
        return bool(waits)

    def start(self, command: Command) -> None:
        """Start *command*."""
        command.started_at = time.monotonic()
        command.folder = self.runs / f"{datetime.now(UTC):{STAMP}}-{command.words[0]}"
        command.process = self.project.start(command.words, command.folder, _password())

    def end(self, command: Command) -> None:
        """Tell what became of *command*, whose process has ended."""
        assert command.process is not None  # noqa: S101  # its sentinel has told
        command.process.join()
        code, command.process = command.process.exitcode, None
        seconds, what = round(time.monotonic() - command.started_at, 2), f"dbt {command.words[0]}"
        results = dbt.results(command.folder)
        self.untested = self.untested or command is self.models or code != 0  # tests that failed run again
        if code and self.waits() is None:
            return  # for want of a server, which is told already
        bad = [f"{name} {status}" for name, (status, _) in results.items() if status not in {"success", "pass", "skipped"}]
        if code or bad:
            warn(f"{what} {'failed' if code else 'warns'}", f"{', '.join(bad) or f'exit code {code}'}; see {command.folder}")
        command.failures = command.failures + 1 if code else 0
        backoff = min(MAX_BACKOFF_SECONDS, 2.0 ** min(command.failures, 10)) if code else 0.0
        command.due_at = max(command.started_at + command.pace_seconds, time.monotonic() + backoff)
        if not code:
            rows = {name.rpartition(".")[2]: rows for name, (_, rows) in results.items() if command is self.models}
            said = ", ".join(f"{count:,} {name}" for name, count in rows.items()) or "passed"
            tell(what, f"{what}: {said} in {seconds} s", {"seconds": seconds, **rows})
            self.say_up_to_date()

    def say_up_to_date(self) -> None:
        """Nothing waits or a run has succeeded: show it to whatever watches us, unless tests fail."""
        if self.models.failures or self.tests.failures:
            return
        self.up_to_date.touch()
        if time.monotonic() >= self.told_until:
            self.told_until = time.monotonic() + MINUTE_SECONDS
            tell("up to date")

    def finish(self) -> None:
        """Let what runs end within the grace time, and end it then; a killed run takes nothing off the work list."""
        tell("finishing")
        deadline = time.monotonic() + self.settings.transform_grace_seconds
        for command in (self.models, self.tests):
            if command.process:
                command.process.join(max(0.0, deadline - time.monotonic()))
                command.process.kill()
                command.process.join()

    def tidy(self) -> None:
        """Delete the folders of runs that are old or too many."""
        oldest = f"{datetime.now(UTC) - timedelta(days=self.settings.transform_keep_days):{STAMP}}"
        in_use = [command.folder for command in self.running().values()]
        for number, folder in enumerate(sorted(self.runs.glob("*"), reverse=True)):
            if folder not in in_use and (number >= self.settings.transform_keep_runs or folder.name < oldest):
                shutil.rmtree(folder, ignore_errors=True)


def _connect(password: str) -> psycopg.Connection[Any]:
    try:
        connection = psycopg.connect(
            user="transformer",
            password=password,
            autocommit=True,
            connect_timeout=10,
            keepalives_idle=10,  # with the next two, a server that is silent is given up after 25 s
            keepalives_interval=5,
            keepalives_count=3,
            application_name="user-logins transform",
        )
        connection.execute("set statement_timeout = '10s'")  # not among the options: a pool such as pgbouncer refuses those
    except psycopg.OperationalError as error:
        raise refusal(error, "TRANSFORMER_PASSWORD", "the role transformer") from None
    return connection


def _password() -> str:
    return _password_since(int(time.monotonic() // TOKEN_SECONDS))


@functools.lru_cache(maxsize=1)
def _password_since(_number: int) -> str:
    return password_for("transformer", os.environ.get("TRANSFORMER_PASSWORD")) or ""
