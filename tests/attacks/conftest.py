"""A server that logs and counts all that PostgreSQL can, for attacks that read what it wrote."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loader.migrate import migrate
from sandbox import postgres, processes
from sandbox.postgres import Postgres
from tests import canaries, support
from tests.support import DATABASE_FILES, Database

TALKATIVE = {
    "log_min_messages": "notice",
    "log_min_error_statement": "notice",
    "log_error_verbosity": "verbose",
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_parameter_max_length": "-1",
    "log_parameter_max_length_on_error": "-1",
    "shared_preload_libraries": "pg_stat_statements,auto_explain",
    "pg_stat_statements.track": "all",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_verbose": "on",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_parameter_max_length": "-1",
}
TEMPLATE = "talkative"
numbers = itertools.count(1)


@dataclass
class Talkative:
    """A database whose server logs everything, and how many bytes of that log were there before."""

    database: Database
    read_bytes: int = 0

    def mark(self) -> None:
        """Let what is logged from here on be what counts."""
        self.read_bytes = self.database.server.log.stat().st_size

    def logged(self) -> str:
        """What the server logged since the mark."""
        with self.database.server.log.open("rb") as log:
            log.seek(self.read_bytes)
            return log.read().decode(errors="replace")

    def assert_nothing_leaked(self, *outputs: str, folder: Path | None = None) -> None:
        """No canary and no key in *outputs*, in the server's log and in what it counts; no canary in the files under *folder*."""
        assert len(self.logged()) > 1_000  # it does log
        keys = support.key_blocks(self.database)
        told = "\n".join([*outputs, self.logged()])
        assert not canaries.found_in(told)
        assert not canaries.keys_found_in(told, keys)
        assert folder is None or not canaries.found_under(folder)
        with self.database.connect() as connection:
            texts = support.readable(connection)
        assert "pg_stat_statements" in texts
        assert not [name for name, text in texts.items() if not name.startswith("staging.") and canaries.found_in(text)]
        assert [name for name, text in texts.items() if canaries.keys_found_in(text, keys)] == ["masking.keys"]


def as_transformer(database: Database, expression: str, values: list[str]) -> list[Any]:
    """What dbt's role gets for *expression* of each value."""
    with database.connect("transformer") as connection:
        query = f"select {expression} from unnest(%s::text[]) with ordinality as given (value, place) order by place"
        return [found for (found,) in connection.execute(query.encode(), [values]).fetchall()]


@pytest.fixture(scope="session")
def talkative_server(tmp_path_factory: pytest.TempPathFactory, passwords: Mapping[str, str]) -> Iterator[Postgres]:
    """The server, with a migrated database to copy."""
    server = Postgres(tmp_path_factory.mktemp("talkative"), processes.free_port(), "postgres", "talkative")
    try:
        postgres.start(server, postgres.SETTINGS | postgres.THROWAWAY_SETTINGS | TALKATIVE)
        with server.connect() as connection:
            connection.execute(f"create database {TEMPLATE}".encode())
        with server.connect(TEMPLATE) as connection:
            migrate(connection, DATABASE_FILES, passwords)
            connection.execute("create extension pg_stat_statements")
        yield server
    finally:
        postgres.stop(server)


@pytest.fixture
def talkative(talkative_server: Postgres, passwords: Mapping[str, str]) -> Iterator[Talkative]:
    """A migrated database of the test's own, whose log settings, which only a superuser can make, are off."""
    with support.copied(talkative_server, passwords, f"canary_{next(numbers)}", TEMPLATE) as database:
        database.execute(f"alter database {database.name} reset all", "select pg_stat_statements_reset()")
        made = Talkative(database)
        made.mark()
        yield made
