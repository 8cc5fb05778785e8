"""A PostgreSQL of these tests' own, which they may stop, that logs everything it can; a stub of SQS; and proxies before both."""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from psycopg import sql

from benchmarks.stub import Stub
from loader.migrate import migrate
from sandbox import postgres, processes
from sandbox.postgres import Postgres
from tests import forks
from tests.faults import forked_loader, proxy
from tests.faults.trial import Trial
from tests.support import DATABASE_FILES, copied

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
# What `database/` sets for the loader, taken back: not every administrator may set it.
TALKATIVE_ROLE = {"log_min_messages": "info", "log_parameter_max_length": "-1"}

forks.preload(forked_loader.__name__)


@pytest.fixture(scope="session")
def restartable_server(tmp_path_factory: pytest.TempPathFactory, passwords: Mapping[str, str]) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("restartable"), processes.free_port(), "postgres", secrets.token_urlsafe())
    try:
        postgres.start(server, postgres.SETTINGS | postgres.THROWAWAY_SETTINGS | TALKATIVE)
        with server.connect() as connection:
            connection.execute("create database migrated")
        with server.connect("migrated") as connection:
            migrate(connection, DATABASE_FILES, passwords)
        yield server
    finally:
        postgres.stop(server)


@pytest.fixture
def trial(
    restartable_server: Postgres, passwords: Mapping[str, str], tmp_path: Path, record_property: Callable[[str, object], None]
) -> Iterator[Trial]:
    with (
        copied(restartable_server, passwords, f"trial_{secrets.token_hex(4)}", "migrated") as database,
        stub_of_sqs(tmp_path / "stub") as stub,
        proxy.forwarding(restartable_server.port, is_postgres=True) as to_postgres,
        proxy.forwarding(stub.port) as to_sqs,
    ):
        for setting, value in TALKATIVE_ROLE.items():
            with database.connect() as connection:
                statement = sql.SQL("alter role loader in database {} set {} = {}")
                connection.execute(statement.format(sql.Identifier(database.name), sql.Identifier(setting), value))
        trial = Trial(stub, database, to_postgres, to_sqs, tmp_path)
        try:
            yield trial
        finally:
            record_property("proof", trial.proof)  # for --junit-xml
            for loader in trial.loaders:
                loader.process.kill()
                loader.process.join()


@contextlib.contextmanager
def stub_of_sqs(output: Path) -> Iterator[Stub]:
    process = forks.start(forked_loader.serve_stub, {}, output)
    try:
        assert processes.wait_until(lambda: output.exists() and output.read_text().endswith("\n"), 20)
        assert process.pid
        yield Stub(int(output.read_text()), process.pid)
    finally:
        process.terminate()
        process.join()
