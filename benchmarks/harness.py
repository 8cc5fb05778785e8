"""For every measure: a durable PostgreSQL, processes whose CPU and memory are counted, and one table."""

import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from loader.migrate import migrate
from loader.settings import LOGIN_ROLES
from sandbox import postgres, processes
from sandbox.postgres import Postgres

ROOT = Path(__file__).parent.parent
RUN_TIMEOUT_SECONDS = 600


class NotCountedError(Exception):
    """Not all messages of a run arrived, so its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table: a ratio or a size, the median of *runs*, with its bound and what the harness itself reaches."""

    name: str
    unit: str
    runs: list[float]
    at_least: float | None = None
    at_most: float | None = None
    ceiling: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.runs)

    @property
    def holds(self) -> bool:
        """Whether the median is within its bounds."""
        return (self.at_least is None or self.value >= self.at_least) and (self.at_most is None or self.value <= self.at_most)


@dataclass(frozen=True, slots=True)
class Usage:
    """A process's CPU time (user and system, seconds) and peak resident size (bytes)."""

    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Bench:
    """The arguments of a measure."""

    runs: int
    server: Postgres
    database: str
    passwords: Mapping[str, str]
    seconds: float

    def connect(self) -> psycopg.Connection:
        """Connect as the superuser, in autocommit mode."""
        return self.server.connect(self.database)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that uses this database, without variables of this shell's servers."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "AWS_", "LOADER_", "SQS_", "DBT_"))}
        return kept | {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.server.port),
            "PGDATABASE": self.database,
            # compiled, as the image is, wherever this shell keeps Python from writing that down
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(ROOT / ".bench" / "compiled"),
            **{f"{role.upper()}_PASSWORD": password for role, password in self.passwords.items()},
        }


Measure = Callable[[Bench], list[Result]]
MEASURES: dict[str, Measure] = {}


def measure(function: Measure) -> Measure:
    """Register *function*: `python -m benchmarks` runs it, under its own name."""
    MEASURES[function.__name__] = function
    return function


def run(command: list[str], environment: Mapping[str, str]) -> Usage:
    """Run *command* (`python` means this interpreter) to its end and return what it used.

    Raises:
        NotCountedError: it failed.
    """
    words = [sys.executable if word == "python" else word for word in command]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(words, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            lines = output.read().decode(errors="replace").splitlines() or ["no output"]
            raise NotCountedError(f"{' '.join(command)} ended with {process.returncode}: {lines[-1]}")
    return Usage(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


@contextlib.contextmanager
def bench(runs: int, seconds: float) -> Iterator[Bench]:
    """A new PostgreSQL with fsync on, as in production, and `database/` applied."""
    passwords = {role: secrets.token_urlsafe() for role in LOGIN_ROLES}
    with tempfile.TemporaryDirectory(prefix="user-logins-bench-") as directory:
        server = Postgres(Path(directory), processes.free_port(), "postgres", secrets.token_urlsafe())
        try:
            postgres.start(server)
            with server.connect() as connection:
                connection.execute("create database user_logins")
            with server.connect("user_logins") as connection:
                migrate(connection, ROOT / "database", passwords)
                found = connection.execute("select current_setting('fsync'), current_setting('synchronous_commit')").fetchone()
                if found != ("on", "on"):
                    raise NotCountedError(f"fsync and synchronous_commit are {found}; both must be on")
            yield Bench(runs, server, "user_logins", passwords, seconds)
        finally:
            postgres.stop(server)


def print_table(results: list[Result], console: Console) -> None:
    """One table of all results."""
    table = Table()
    table.add_column("measure", overflow="fold")  # so that a narrow terminal does not cut the figures
    for heading in ("median", "lowest", "highest", "bound", "ceiling", ""):
        table.add_column(heading, no_wrap=True)
    for result in results:
        bound = f"≥ {result.at_least:g}" if result.at_least is not None else f"≤ {result.at_most:g}" if result.at_most is not None else ""
        verdict = ("holds" if result.holds else "does not hold") if bound else result.note
        ceiling = f"{statistics.median(result.ceiling):.3g}" if result.ceiling else ""
        figures = (result.value, min(result.runs), max(result.runs))
        table.add_row(f"{result.name}, {result.unit}", *(f"{figure:.3g}" for figure in figures), bound, ceiling, verdict)
    console.print(table)


def write_json(results: list[Result], path: Path) -> None:
    """All results, with every run, as a JSON array."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([asdict(result) | {"value": result.value, "holds": result.holds} for result in results], indent=2) + "\n")
