"""Databases in which logins have been landed and masked, and the steps that tests of recovery share."""

import contextlib
import itertools
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from loader.migrate import migrate
from sandbox.postgres import Postgres
from sandbox.sample_events import sample_events
from tests.support import DATABASE_FILES, Database, create_copy, dbt, environment, run

PII_ROLES = ("pii_requester", "pii_approver", "privacy_officer")
numbers = itertools.count(1)
# of one day for all, though midnight may pass while the tests run
MIDDAY = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)


@dataclass(frozen=True)
class Message:
    """One message as the loader lands it."""

    message_id: str
    sent_at: datetime
    body: str

    @property
    def partition(self) -> str:
        """The table that holds the message's day."""
        return f"staging.raw_logins_{self.sent_at:%Y%m%d}"

    @property
    def event(self) -> dict[str, Any]:
        """The body, which must be a JSON object."""
        event: dict[str, Any] = json.loads(self.body)
        return event


def message(body: str, days_ago: int = 0) -> Message:
    """A new message with *body*, sent now, or about midday some days ago."""
    sent_at = MIDDAY - timedelta(days=days_ago, milliseconds=next(numbers)) if days_ago else datetime.now(UTC)
    return Message(str(uuid.uuid4()), sent_at, body)


def login(user_id: str, ip: str, device_id: str, days_ago: int = 0) -> Message:
    """A new message of a login that passes every rule."""
    event = {"user_id": user_id, "app_version": "2.3.0", "device_type": "ios", "ip": ip, "locale": None, "device_id": device_id}
    return message(json.dumps(event), days_ago)


@dataclass(frozen=True)
class Masked:
    """A database with `database/` applied, on which dbt can run; its target folder is shared, for parsing takes longest."""

    database: Database
    target: Path

    def land(self, messages: Iterable[Message]) -> None:
        """Land *messages* in one transaction, as the loader does: what is there already stays as it is."""
        rows = [(one.message_id, one.sent_at, one.body) for one in messages]
        with self.database.connect("loader") as connection:
            connection.execute("select staging.ensure_partitions(%s)", (sorted({sent_at.date() for _, sent_at, _ in rows}),))
            with connection.transaction():
                connection.cursor().executemany(
                    "insert into staging.raw_logins (message_id, sent_at, body) values (%s, %s, %s) on conflict do nothing", rows
                )
                connection.cursor().executemany(
                    "insert into staging.unjudged (message_id, sent_at) values (%s, %s) on conflict do nothing", [row[:2] for row in rows]
                )

    @property
    def environment(self) -> dict[str, str]:
        """Variables for dbt and `python -m recovery`."""
        return environment(self.database, outputs=self.target)

    def dbt(self, *words: str) -> None:
        """Run dbt to its end, which must be a good one."""
        done = dbt(self.database, list(words), self.target)
        assert done.returncode == 0, done.stdout

    def mask(self) -> None:
        """Let dbt take what has landed."""
        self.dbt("run", "--select", "user_logins", "rejected_logins")

    def recovery(self, *words: str, stdin: str = "", **environment: str) -> str:
        """Run `python -m recovery` to its good end and return what it printed."""
        done = run(["python", "-m", "recovery", *words], self.environment | environment, stdin=stdin, timeout_seconds=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def rows(self, query: str, role: str | None = None) -> list[tuple[Any, ...]]:
        """All rows of *query* as *role*, or as the superuser."""
        return self.database.rows(query, role)

    def value(self, query: str, role: str | None = None) -> Any:
        """The first column of the first row of *query*."""
        return self.database.value(query, role)

    def connect(self, role: str | None = None, *, autocommit: bool = True) -> psycopg.Connection[Any]:
        """Connect as *role*, or as the superuser."""
        return self.database.connect(role, autocommit=autocommit)

    def statistics_files(self) -> set[str]:
        """The files of what ANALYZE notes, long notes included."""
        return {
            path
            for (path,) in self.rows(
                "select pg_relation_filepath(oid) from pg_class where oid = 'pg_statistic'::regclass "
                "union select pg_relation_filepath(reltoastrelid) from pg_class where oid = 'pg_statistic'::regclass"
            )
        }

    def tokens(self, one: Message) -> tuple[str, str]:
        """Masked ip and masked device id of a message's login."""
        with self.connect() as connection:
            row = connection.execute(
                "select masked_ip, masked_device_id from marts.user_logins where message_id = %s", (one.message_id,)
            ).fetchone()
        assert row is not None
        return row[0], row[1]

    def files_with(self, needle: str | bytes) -> set[str]:
        """The server's data files, WAL aside, in which *needle* occurs after a checkpoint: heaps, indexes, catalogs, temporary files.

        All databases' files, for a copy of a database would be found too; so *needle* must be of this database alone.
        """
        wanted = needle.encode() if isinstance(needle, str) else needle
        with self.connect() as connection:
            connection.execute("checkpoint")
        data = self.database.server.data
        found = set()
        for path in data.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # the server makes and removes files meanwhile
                if path.is_file() and "pg_wal" not in path.parts and wanted in path.read_bytes():
                    found.add(str(path.relative_to(data)))
        return found


def reveal_all(masked: Masked, tokens: list[str]) -> set[tuple[str, str]]:
    """All four steps in SQL, for fifty tokens at a time: token and value."""
    found: set[tuple[str, str]] = set()
    with masked.connect("pii_requester") as requester, masked.connect("pii_approver") as approver:
        for start in range(0, len(tokens), 50):
            wanted = tokens[start : start + 50]
            row = requester.execute("select recovery.request_reveal(%s, 'fraud', 'case 1')", (wanted,)).fetchone()
            assert row is not None
            approver.execute("select recovery.approve_reveal(%s)", row)
            requester.execute("select recovery.open_reveal(%s)", row)
            rows = requester.execute("select token, plain_value from recovery.read_reveal(%s)", row).fetchall()
            found.update((token, value) for token, value in rows)
    return found


def accepted(masked: Masked, messages: tuple[Message, ...]) -> dict[str, tuple[str, str, Message]]:
    """Masked ip and device id of each accepted message, by its id."""
    sent = {one.message_id: one for one in messages}
    rows = masked.rows("select message_id, masked_ip, masked_device_id from marts.user_logins")
    return {message_id: (ip, device, sent[message_id]) for message_id, ip, device in rows}


def begin_judging(dbt: psycopg.Connection[Any]) -> None:
    """What dbt does before a model's statement, in its transaction: the macro begin_judging."""
    dbt.execute("set transaction isolation level repeatable read")
    dbt.execute("lock table only marts.rejected_logins in share update exclusive mode")
    dbt.execute("select staging.begin_judging()")


def wait_until(masked: Masked, condition: str) -> None:
    """Wait until the query *condition* returns a row; the test's time-out ends a wait in vain."""
    with masked.connect() as admin:
        while True:
            if admin.execute(condition.encode()).fetchone() is not None:
                return
            admin.execute("select pg_sleep(0.01)")


@pytest.fixture(scope="session")
def dbt_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dbt")


@pytest.fixture(scope="session")
def sample() -> tuple[Message, ...]:
    """The project's sample events as messages of the last ten days."""
    return tuple(message(body, days_ago=number % 10) for number, body in enumerate(sample_events()))


@pytest.fixture(scope="session")
def story() -> dict[str, Message]:
    """Messages with a part to play, by name; what is old is past retention."""
    told = {
        "old": login("u-old", "2001:db8:ffff::1", "canary-device-old", days_ago=40),
        "old shared": login("u-old-shared", "2001:db8:ffff::2", "canary-device-shared", days_ago=41),
        "new shared": login("u-new-shared", "2001:db8:ffff:0::2", "canary-device-shared", days_ago=1),
        "erased": login("u-erased", "2001:db8:ffff::3", "canary-device-erased", days_ago=1),
        "erased, long ago": login("u-erased", "2001:db8:ffff::4", "canary-device-erased", days_ago=41),
        "erased, rejected": message('{"user_id": "u-erased", "ip": "2001:db8:ffff::3", "app_version": 2}', days_ago=2),
        "erased, cut off": message('{"user_id": "u-erased", "ip": "2001:db8:ff', days_ago=2),
        "erased, in an array": message('[{"user_id": "u-\\u0065rased"}]', days_ago=2),
        "erased, in bytes": message("\\x" + b'{"user_id": "u-erased", "ip": "\0"}'.hex(), days_ago=2),
        "erased, in a sentence": message("login of u-erased from 2001:db8:ffff::3", days_ago=2),
        "neighbour": login("u-erased-2", "2001:db8:ffff::3", "canary-device-neighbour", days_ago=1),
        "neighbour, cut off": message('{"user_id": "u-erased-2", "ip": "2001:db8:ff', days_ago=2),
        "neighbour, in a sentence": message("login of u-erased2 and xu-erased", days_ago=2),
    }
    assert len({one.sent_at for one in told.values()}) == len(told)
    return told


@pytest.fixture(scope="session")
def masked_template(  # noqa: PLR0913, PLR0917  # a fixture's arguments are the fixtures it stands on
    postgres_server: Postgres,
    passwords: Mapping[str, str],
    template: str,
    dbt_target: Path,
    sample: tuple[Message, ...],
    story: dict[str, Message],
) -> str:
    name = "recovery_template"
    create_copy(postgres_server, name, template)
    made = Masked(Database(postgres_server, name, passwords), dbt_target)
    with made.connect() as connection:
        migrate(connection, DATABASE_FILES, {})
    made.land([*sample, *story.values()])
    made.dbt("run")
    return name


@pytest.fixture
def masked(postgres_server: Postgres, passwords: Mapping[str, str], masked_template: str, dbt_target: Path) -> Iterator[Masked]:
    """A database in which the sample has been landed and masked."""
    yield from copy_of(postgres_server, passwords, masked_template, dbt_target)


@pytest.fixture(scope="module")
def masked_for_module(postgres_server: Postgres, passwords: Mapping[str, str], masked_template: str, dbt_target: Path) -> Iterator[Masked]:
    """The same, for all tests of a module that do not get in each other's way."""
    yield from copy_of(postgres_server, passwords, masked_template, dbt_target)


@pytest.fixture
def unmasked(postgres_server: Postgres, passwords: Mapping[str, str], template: str, dbt_target: Path) -> Iterator[Masked]:
    """A database with no rows, on which dbt has not run."""
    yield from copy_of(postgres_server, passwords, template, dbt_target)


def copy_of(server: Postgres, passwords: Mapping[str, str], template: str, dbt_target: Path) -> Iterator[Masked]:
    """A database made from *template*, dropped at the end."""
    name = f"recovery_{next(numbers)}"
    create_copy(server, name, template)
    with server.connect() as connection:
        # who may connect stands on the database itself and is not copied: here everyone may, which is not what these tests are about
        yield Masked(Database(server, name, passwords), dbt_target)
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
