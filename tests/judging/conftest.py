"""A warehouse for each test: a migrated database that messages are landed in and dbt runs on."""

import datetime as dt
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from sandbox.postgres import Postgres
from tests.judging import forked_dbt
from tests.support import Database, copied, environment, land_messages

RUN_TIMEOUT_SECONDS = 240


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

    def land(self, messages: Mapping[str, str], sent_at: dt.datetime | None = None) -> None:
        """Land bodies by message id in one transaction, as the loader would."""
        land_messages(self.database, messages, sent_at)

    def start(self, *words: str) -> ForkServerProcess:
        """Start `dbt WORDS…` and do not wait for it."""
        return forked_dbt.start(list(words), self.environ, self.directory / f"dbt-{next(self.started)}")

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


@pytest.fixture
def warehouse(postgres_server: Postgres, passwords: Mapping[str, str], template: str, tmp_path: Path) -> Iterator[Warehouse]:
    with copied(postgres_server, passwords, forked_dbt.DATABASE, template) as database:
        yield Warehouse(database, tmp_path)
