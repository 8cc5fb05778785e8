"""The servers that all tests share, and a database and a queue for each test."""

import itertools
import os
import secrets
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

import pytest
from psycopg import sql

from loader.migrate import migrate
from loader.settings import LOGIN_ROLES
from sandbox import emulator, postgres
from sandbox.emulator import Emulator
from sandbox.postgres import Postgres
from sandbox.sample_events import sample_events
from tests import canaries, support
from tests.managed import managed
from tests.support import DATABASE_FILES, Database, Queue

TEMPLATE = "migrated"
MASKED_TEMPLATE = "masked"
IS_MANAGED = os.environ.get("SERVER") == "managed"
numbers = itertools.count(1)


def pytest_sessionstart() -> None:
    """A terminated run stops its servers, as an interrupted one does."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def pytest_report_header() -> str:
    """Which PostgreSQL the tests run on."""
    return f"PostgreSQL: {postgres.major_version()}{', managed' if IS_MANAGED else ''}"


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    start = managed if IS_MANAGED else postgres.throwaway
    with start(tmp_path_factory.mktemp("postgres"), secrets.token_urlsafe()) as server:
        yield server


@pytest.fixture(scope="session")
def sqs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with emulator.throwaway(tmp_path_factory.mktemp("sqs")) as server:
        yield server


@pytest.fixture(scope="session")
def passwords() -> Mapping[str, str]:
    return {role: secrets.token_urlsafe() for role in LOGIN_ROLES}


@pytest.fixture(scope="session")
def template(postgres_server: Postgres, passwords: Mapping[str, str]) -> str:
    administrator = support.administrator(postgres_server)
    with administrator.connect() as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(TEMPLATE)))
    with administrator.connect(TEMPLATE) as connection:
        migrate(connection, DATABASE_FILES, passwords)
    return TEMPLATE


@pytest.fixture
def empty_database(postgres_server: Postgres, passwords: Mapping[str, str]) -> Iterator[Database]:
    """A database to which nothing was applied."""
    name = f"test_{next(numbers)}"
    with support.administrator(postgres_server).connect() as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        yield Database(postgres_server, name, passwords)
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def database(postgres_server: Postgres, passwords: Mapping[str, str], template: str) -> Iterator[Database]:
    """A database with `database/` applied and no rows."""
    with support.copied(postgres_server, passwords, f"test_{next(numbers)}", template) as made:
        yield made


@pytest.fixture(scope="session")
def masked_template(
    postgres_server: Postgres, passwords: Mapping[str, str], template: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The name of a database in which the sample events and the canaries were landed, masked and judged."""
    database = Database(postgres_server, MASKED_TEMPLATE, passwords)
    support.create_copy(postgres_server, MASKED_TEMPLATE, template)
    with database.administer() as connection:
        migrate(connection, DATABASE_FILES, {})
    support.land(database, [*sample_events(), *canaries.events()])
    built = support.dbt(database, ["run"], tmp_path_factory.mktemp("masked"))
    assert built.returncode == 0, built.stdout
    return MASKED_TEMPLATE


@pytest.fixture
def masked(postgres_server: Postgres, passwords: Mapping[str, str], masked_template: str) -> Iterator[Database]:
    """A database of the test's own, with the sample events and the canaries masked."""
    with support.copied(postgres_server, passwords, f"test_{next(numbers)}", masked_template) as made:
        yield made


@pytest.fixture(scope="session")
def masked_for_all(postgres_server: Postgres, passwords: Mapping[str, str], masked_template: str) -> Database:
    """The same database for all tests, which must leave it as they found it."""
    return Database(postgres_server, masked_template, passwords)


@pytest.fixture
def queue(sqs: Emulator) -> Iterator[Queue]:
    made = Queue(sqs, emulator.create_queue(sqs, f"login-queue-{next(numbers)}"))
    yield made
    for url in (made.url, made.dead_letter_url):
        sqs.client().delete_queue(QueueUrl=url)


@pytest.fixture
def environment(database: Database, queue: Queue, tmp_path: Path) -> dict[str, str]:
    """Variables for commands that work on this test's database and queue; dbt writes into the test's own folder."""
    return support.environment(database, queue, tmp_path)
