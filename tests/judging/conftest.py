"""A warehouse for each test: a migrated database that messages are landed in and dbt runs on."""

import datetime as dt
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from loader.migrate import migrate
from tests.support import ROOT, Database, dbt, ended, environment, land_messages, start_dbt

LOGIN = {"user_id": "u1", "app_version": "2.3.0", "device_type": "ios", "ip": "192.0.2.1", "locale": None, "device_id": "000-00-0001"}
GOOD = json.dumps(LOGIN)
LOCALE = "('locale', 'locale', 32,"  # its line in 6_fields.sql
Places = tuple[list[str], list[str], list[str]]  # ids of messages that are masked, rejected, and on the work list
NOT_IN_A_COPY = shutil.ignore_patterns("target", "logs", "dbt_packages", "profiles.yml", ".user.yml")


@dataclass
class Warehouse:
    """One database, dbt on it, and copies of database/ and dbt_project/ as soon as a test changes a file of theirs."""

    database: Database
    directory: Path
    started: int = 0

    @property
    def project(self) -> Path:
        """What dbt runs: the copy if there is one."""
        copy = self.directory / "dbt_project"
        return copy if copy.exists() else ROOT / "dbt_project"

    @property
    def target(self) -> Path:
        """Where the artefacts of the last `dbt` are."""
        return self.directory / "dbt" / "target"

    def copy(self, folder: str) -> Path:
        """This test's own copy of *folder*, database or dbt_project."""
        copy = self.directory / folder
        return copy if copy.exists() else shutil.copytree(ROOT / folder, copy, ignore=NOT_IN_A_COPY)

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace *old*, which must be there, by *new* in the copy of *file*."""
        path = self.copy(file.partition("/")[0]).parent / file
        assert old in path.read_text(), file
        path.write_text(path.read_text().replace(old, new))

    def migrate(self) -> None:
        """Apply the copy of database/, without waiting for other transactions."""
        with self.database.administer() as connection:
            migrate(connection, self.copy("database"), {}, patience_seconds=0)

    def limit_locale(self, length: int) -> None:
        """Migrate to a policy that allows locales of that length, instead of 32."""
        shutil.rmtree(self.copy("database"))
        self.edit("database/6_fields.sql", LOCALE, LOCALE.replace("32", str(length)))
        self.migrate()

    def land(self, messages: Mapping[str, str], sent_at: dt.datetime | None = None) -> None:
        """Land bodies by message id in one transaction, as the loader would."""
        land_messages(self.database, messages, sent_at)

    def dbt(self, *words: str, code: int = 0) -> str:
        """Run `dbt WORDS…`, which must end with *code*, and return what it printed."""
        ran = dbt(self.database, list(words), self.target.parent, self.project)
        assert ran.returncode == code, ran.stdout
        return ran.stdout

    def start(self, *words: str) -> ForkServerProcess:
        """Start `dbt WORDS…` and do not wait for it."""
        self.started += 1
        return start_dbt(list(words), environment(self.database), self.directory / f"started-{self.started}", self.project)

    def end_well(self, *runs: ForkServerProcess) -> None:
        """Wait for what was started; all of it must end with 0."""
        codes = [ended(run) for run in runs]
        assert not any(codes), [path.read_text() for path in self.directory.glob("started-*/output")]

    def results(self, artefact: str = "run_results") -> dict[str, str]:
        """What the last `dbt` says of each node, by name."""
        results = json.loads((self.target / f"{artefact}.json").read_text())["results"]
        return {result["unique_id"].split(".")[-1 if artefact == "sources" else 2]: result["status"] for result in results}

    def reasons(self) -> dict[str, list[str]]:
        """Why each rejected message was, by its id."""
        return dict(self.database.rows("select message_id, reasons from marts.rejected_logins"))

    def places(self) -> Places:
        """Where the messages are: each in one place, once, if all is well."""
        tables = ("marts.user_logins", "marts.rejected_logins", "staging.unjudged")
        masked, rejected, waiting = (sorted(row[0] for row in self.database.rows(f"select message_id from {table}")) for table in tables)
        return masked, rejected, waiting


@pytest.fixture
def warehouse(database: Database, tmp_path: Path) -> Warehouse:
    return Warehouse(database, tmp_path)
