"""A warehouse for each test: a migrated database that messages are landed in and dbt runs on."""

import datetime as dt
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from loader.migrate import migrate
from tests import support
from tests.support import DATABASE_FILES, ROOT, Database, environment, land_messages, start_dbt

RUN_TIMEOUT_SECONDS = 240
LOGIN = {"user_id": "u1", "app_version": "2.3.0", "device_type": "ios", "ip": "192.0.2.1", "locale": None, "device_id": "000-00-0001"}
GOOD = json.dumps(LOGIN)


@dataclass
class Warehouse:
    """One database, and dbt on it."""

    database: Database
    directory: Path
    started: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    @property
    def environ(self) -> dict[str, str]:
        """What dbt is given, and nothing else of PostgreSQL's or dbt's own variables."""
        return environment(self.database)

    def execute(self, *statements: str, role: str | None = None) -> None:
        """Execute each statement, in a transaction for each, as *role* or as the server's superuser."""
        with self.database.connect(role) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def land(self, messages: Mapping[str, str], sent_at: dt.datetime | None = None) -> None:
        """Land bodies by message id in one transaction, as the loader would."""
        land_messages(self.database, messages, sent_at)

    def start(self, *words: str) -> ForkServerProcess:
        """Start `dbt WORDS…` and do not wait for it."""
        return start_dbt(list(words), self.environ, self.directory / f"dbt-{next(self.started)}")

    def dbt(self, *words: str, code: int = 0) -> str:
        """Run `dbt WORDS…`, which must end with *code*, and return what it printed."""
        process = self.start(*words)
        process.join(RUN_TIMEOUT_SECONDS)
        output = (self.outputs()[-1]).read_text()
        assert process.exitcode == code, output
        return output

    def outputs(self) -> list[Path]:
        """What each dbt printed, in the order in which they were started."""
        return sorted(self.directory.glob("dbt-*/output"), key=lambda path: int(path.parent.name.removeprefix("dbt-")))

    def masked(self) -> list[str]:
        """The message ids in user_logins."""
        return [row[0] for row in self.database.rows("select message_id from marts.user_logins order by 1")]

    def rejected(self) -> dict[str, list[str]]:
        """The reasons by message id."""
        return dict(self.database.rows("select message_id, reasons from marts.rejected_logins order by 1"))

    def outcomes(self) -> Sequence[str]:
        """The message ids in both tables, sorted: each message once, if all is well."""
        return sorted([*self.masked(), *self.rejected()])

    def waiting(self) -> list[str]:
        """The message ids on the work list."""
        return [row[0] for row in self.database.rows("select message_id from staging.unjudged order by 1")]


@dataclass
class Project:
    """A copy of database/ and dbt_project/ that a test may change, and the warehouse that it is used on."""

    warehouse: Warehouse
    path: Path

    def replace(self, file: str, old: str, new: str) -> None:
        """Replace *old*, which must be there, by *new* in *file*."""
        text = (self.path / file).read_text()
        assert old in text, file
        (self.path / file).write_text(text.replace(old, new))

    def migrate(self) -> list[str]:
        """Apply the copy's database/, without waiting for other transactions."""
        with self.warehouse.database.connect() as connection:
            return migrate(connection, self.path / "database", {}, patience_seconds=0)

    def dbt(self, *words: str, code: int = 0) -> str:
        """Run `dbt WORDS…` in a process of its own, which must end with *code*, and return what it printed."""
        ran = support.dbt(self.warehouse.database, list(words), self.path, self.path / "dbt_project")
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout

    def start(self, *words: str) -> ForkServerProcess:
        """Start `dbt WORDS…` with a folder of its own for what it writes, and do not wait for it."""
        outputs = self.path / f"started-{next(self.warehouse.started)}"
        return start_dbt(list(words), environment(self.warehouse.database), outputs, self.path / "dbt_project")

    def results(self) -> dict[str, Any]:
        """What the last command said of each node, by name."""
        results = json.loads((self.path / "target" / "run_results.json").read_text())["results"]
        return {result["unique_id"].split(".")[2]: result["status"] for result in results}


@pytest.fixture
def warehouse(database: Database, tmp_path: Path) -> Warehouse:
    return Warehouse(database, tmp_path)


@pytest.fixture
def project(warehouse: Warehouse, tmp_path: Path) -> Project:
    path = tmp_path / "project"
    shutil.copytree(DATABASE_FILES, path / "database")
    ours = shutil.ignore_patterns("target", "logs", "dbt_packages", "profiles.yml", ".user.yml")
    shutil.copytree(ROOT / "dbt_project", path / "dbt_project", ignore=ours)
    return Project(warehouse, path)
