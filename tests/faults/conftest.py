"""A PostgreSQL of these tests' own, which they may stop, and which logs everything it can."""

import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from sandbox import postgres
from sandbox.postgres import Postgres
from tests import forks
from tests.faults import forked_loader
from tests.faults.trial import MIGRATED, Trial, serving, trying
from tests.support import copied

# If personal data can reach the server's log from the loader at all, it does so with these.
TALKATIVE = {
    "log_min_messages": "info",
    "log_min_error_statement": "info",
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_error_verbosity": "verbose",
    "log_parameter_max_length": "-1",
    "log_parameter_max_length_on_error": "-1",
}
forks.preload(forked_loader.__name__)


@pytest.fixture(scope="session")
def restartable_server(tmp_path_factory: pytest.TempPathFactory, passwords: Mapping[str, str]) -> Iterator[Postgres]:
    settings = postgres.SETTINGS | postgres.THROWAWAY_SETTINGS | TALKATIVE
    with serving(tmp_path_factory.mktemp("restartable"), settings, passwords) as server:
        yield server


@pytest.fixture
def trial(
    restartable_server: Postgres, passwords: Mapping[str, str], tmp_path: Path, record_property: Callable[[str, object], None]
) -> Iterator[Trial]:
    with copied(restartable_server, passwords, f"trial_{secrets.token_hex(4)}", MIGRATED) as database:
        with database.connect() as connection:
            for setting in ("log_min_messages = info", "log_parameter_max_length = -1"):  # which `database/` sets for the loader
                connection.execute(f"alter role loader in database {database.name} set {setting}".encode())
        with trying(database, tmp_path) as trial:
            yield trial
            record_property("proof", trial.proof)  # for --junit-xml
