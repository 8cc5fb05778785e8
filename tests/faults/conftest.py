"""A PostgreSQL of these tests' own, which they may stop, that logs everything it can; a stub of SQS; and proxies before both."""

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from psycopg import sql

from benchmarks import stub as stubs
from loader.migrate import migrate
from sandbox import postgres, processes
from sandbox.postgres import Postgres
from tests.faults import proxy
from tests.faults.trial import Trial
from tests.support import DATABASE_FILES, Database

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
def trial(restartable_server: Postgres, passwords: Mapping[str, str], tmp_path: Path) -> Iterator[Trial]:
    name = f"trial_{secrets.token_hex(4)}"
    with restartable_server.connect() as connection:
        connection.execute(sql.SQL("create database {} template migrated").format(sql.Identifier(name)))
    database = Database(restartable_server, name, passwords)
    with database.connect() as connection:
        migrate(connection, DATABASE_FILES, {})  # who may connect is no part of a template
    with (
        stubs.running() as stub,
        proxy.forwarding(restartable_server.port, is_postgres=True) as to_postgres,
        proxy.forwarding(stub.port) as to_sqs,
    ):
        trial = Trial(stub, database, to_postgres, to_sqs, tmp_path)
        try:
            yield trial
        finally:
            for loader in trial.loaders:
                loader.process.kill()
                loader.process.wait()
    with restartable_server.connect() as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
