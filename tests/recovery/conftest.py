"""Databases in which logins have been landed and masked, and the steps that tests of recovery share."""

import contextlib
import itertools
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.postgres import Postgres
from sandbox.sample_events import sample_events
from tests.support import REAL_EVENTS, Database, copied, create_copy, dbt, environment, run

if TYPE_CHECKING:
    from subprocess import CompletedProcess

numbers = itertools.count(1)
# of one day for all, though midnight may pass while the tests run
MIDDAY = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
# the steps of a reveal: request takes a list of tokens, the others the id that it returned
REVEAL = {
    "request": "select recovery.request_reveal(array{}::text[], 'fraud', 'case 1')::text",
    "approve": "select recovery.approve_reveal('{}')",
    "open": "select recovery.open_reveal('{}')",
    "read": "select token, plain_value from recovery.read_reveal('{}')",
}


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


def login(user_id: str, ip: str = "192.0.2.1", device_id: str = "device", days_ago: int = 0) -> Message:
    """A new message of a login that passes every rule."""
    event = {"user_id": user_id, "app_version": "2.3.0", "device_type": "ios", "ip": ip, "locale": None, "device_id": device_id}
    return message(json.dumps(event), days_ago)


class Masked(Database):
    """A database on which dbt and `python -m recovery` run."""

    def land(self, messages: Iterable[Message]) -> None:
        """Land *messages* in one transaction, as the loader does: what is there already stays as it is."""
        rows = [(one.message_id, one.sent_at, one.body) for one in messages]
        with self.connect("loader") as connection, connection.cursor() as cursor:
            cursor.execute("select staging.ensure_partitions(%s)", (sorted({sent_at.date() for _, sent_at, _ in rows}),))
            with connection.transaction():
                cursor.executemany(
                    "insert into staging.raw_logins (message_id, sent_at, body) values (%s, %s, %s) on conflict do nothing", rows
                )
                cursor.executemany(
                    "insert into staging.unjudged (message_id, sent_at) values (%s, %s) on conflict do nothing", [row[:2] for row in rows]
                )

    def dbt(self, *words: str) -> None:
        """Run dbt to its end, which must be a good one."""
        done = dbt(self, list(words), self.server.directory / self.name)
        assert done.returncode == 0, done.stdout

    def mask(self) -> None:
        """Let dbt take what has landed."""
        self.dbt("run", "--select", "user_logins", "rejected_logins")

    def run(self, *words: str, stdin: str | bytes = "", **variables: str) -> "CompletedProcess[str]":
        """Run `python -m recovery WORDS…` to whatever end."""
        return run(["python", "-m", "recovery", *words], environment(self) | variables, stdin=stdin, timeout_seconds=600)

    def recovery(self, *words: str, stdin: str = "", **variables: str) -> str:
        """Run `python -m recovery WORDS…` to its good end and return what it printed."""
        done = self.run(*words, stdin=stdin, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait_until(self, condition: str) -> None:
        """Wait until the query *condition* returns a row; the test's time-out ends a wait in vain."""
        with self.connect() as admin:
            while admin.execute(condition.encode()).fetchone() is None:
                admin.execute("select pg_sleep(0.01)")

    def present(self, relation: str, messages: Iterable[Message]) -> set[str]:
        """The bodies of those of *messages* that *relation* has a row of."""
        sent = {one.message_id: one.body for one in messages}
        return {sent[message_id] for (message_id,) in self.rows(f"select message_id from {relation}") if message_id in sent}

    def tokens(self, one: Message) -> tuple[str, str]:
        """Masked ip and masked device id of a message's login."""
        ip, device = self.rows(f"select masked_ip, masked_device_id from marts.user_logins where message_id = '{one.message_id}'")[0]
        return ip, device

    def opened(self, *tokens: str) -> str:
        """The id of a reveal of *tokens* that was requested, approved and opened."""
        reveal_id: str = self.value(REVEAL["request"].format(list(tokens)), "pii_requester")
        self.execute(REVEAL["approve"].format(reveal_id), role="pii_approver")
        self.execute(REVEAL["open"].format(reveal_id), role="pii_requester")
        return reveal_id

    def reveal(self, *tokens: str) -> set[tuple[Any, ...]]:
        """Token and value of what a reveal gives, by all four steps, for fifty tokens at a time."""
        reveals = [self.opened(*tokens[start : start + 50]) for start in range(0, len(tokens), 50)]
        return {pair for one in reveals for pair in self.rows(REVEAL["read"].format(one), "pii_requester")}

    def files_with(self, needle: str | bytes) -> set[str]:
        """The server's data files, WAL aside, in which *needle* occurs after a checkpoint: heaps, indexes, catalogs, temporary files.

        All databases' files, for a copy of a database would be found too; so *needle* must be of this database alone.
        """
        wanted = needle.encode() if isinstance(needle, str) else needle
        self.execute("checkpoint")
        found = set()
        for path in self.server.data.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # the server makes and removes files meanwhile
                if path.is_file() and "pg_wal" not in path.parts and wanted in path.read_bytes():
                    found.add(str(path.relative_to(self.server.data)))
        return found


@pytest.fixture(scope="session")
def sample() -> tuple[Message, ...]:
    """The project's sample events, and the real ones where they are, as messages of the last ten days."""
    real = REAL_EVENTS.read_text().splitlines() if REAL_EVENTS.exists() else []
    return tuple(message(body, days_ago=number % 10) for number, body in enumerate([*sample_events(), *real]))


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
        "erased, nested": message('{"login": [{"user_id": "u-\\u0065rased"}]}', days_ago=2),
        "erased, in bytes": message("\\x" + b'{"user_id": "u-erased", "ip": "\0"}'.hex(), days_ago=2),
        "erased, in a sentence": message("login of u-erased from 2001:db8:ffff::3", days_ago=2),
        "neighbour": login("u-erased-2", "2001:db8:ffff::3", "canary-device-neighbour", days_ago=1),
        "neighbour, cut off": message('{"user_id": "u-erased-2", "ip": "2001:db8:ff', days_ago=2),
        "neighbour, in a sentence": message("login of u-erased2 and xu-erased", days_ago=2),
    }
    assert len({one.sent_at for one in told.values()}) == len(told)
    return told


@pytest.fixture(scope="session")
def masked_template(
    postgres_server: Postgres, passwords: Mapping[str, str], template: str, sample: tuple[Message, ...], story: dict[str, Message]
) -> str:
    made = Masked(postgres_server, "recovery_template", passwords)
    create_copy(postgres_server, made.name, template)
    made.land([*sample, *story.values()])
    made.dbt("run")
    return made.name


@pytest.fixture
def masked(postgres_server: Postgres, passwords: Mapping[str, str], masked_template: str) -> Iterator[Masked]:
    """A database in which the sample has been landed and masked."""
    yield from copy_of(postgres_server, passwords, masked_template)


@pytest.fixture(scope="module")
def masked_for_module(postgres_server: Postgres, passwords: Mapping[str, str], masked_template: str) -> Iterator[Masked]:
    """The same, for all tests of a module that do not get in each other's way."""
    yield from copy_of(postgres_server, passwords, masked_template)


@pytest.fixture
def unmasked(postgres_server: Postgres, passwords: Mapping[str, str], template: str) -> Iterator[Masked]:
    """A database with no rows, on which dbt has not run."""
    yield from copy_of(postgres_server, passwords, template)


def copy_of(server: Postgres, passwords: Mapping[str, str], template: str) -> Iterator[Masked]:
    """A database made from *template*, dropped at the end."""
    made = Masked(server, f"recovery_{next(numbers)}", passwords)
    with copied(server, passwords, made.name, template):
        yield made
