"""The pipeline as the state machine uses it: the real loader, dbt, recovery and database, and a queue in memory."""

import asyncio
import contextlib
import datetime as dt
import json
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from loader import landing
from loader.delivery import Delivery
from loader.landing import Landing
from loader.pipeline import Pipeline
from loader.report import Report
from loader.settings import LoaderSettings
from loader.sqs import Failures
from recovery import session
from sandbox.processes import wait_until
from tests import support
from tests.support import DATABASE_FILES, VIEWS, Database, create_copy
from tests.whole.model import ADDRESSES, EMAIL, Sent

TEMPLATE, BACKUP = "whole_template", "whole_backup"
TIMEOUT_SECONDS = 240
VISIBILITY_SECONDS = 60
# of one day for all, though midnight may pass meanwhile
NOON = dt.datetime.now(dt.UTC).replace(hour=12, minute=0, second=0, microsecond=0)
# Where a run can be stopped: what is held from it, so that it waits in the middle of its transaction.
STATEMENTS = {
    "lock table only marts.rejected_logins": "lock table only marts.rejected_logins in share update exclusive mode",
    "insert into user_logins": "lock table only marts.user_logins in share mode",
    "delete from unjudged": "lock table staging.unjudged in share mode",
}
# What README says to change for a new field: the policy, the model, its contract.
EMAIL_FIELD = [("('masked_ip',", "('masked_email', 'email', 256, false, 'email', 'as_sent', null),\n('masked_ip',")]
EMAIL_COLUMN = [
    ("user_logins.sql", "    sent_at\n\nfrom accepted", "    sent_at,\n    masked_email\n\nfrom accepted"),
    ("user_logins.yml", "\nunit_tests:", "      - name: masked_email\n        data_type: varchar(256)\n\nunit_tests:"),
]


def body(one: Sent) -> str:
    """The message as the producer sends it."""
    event = {"user_id": one.user, "app_version": 2.3 if one.kind == "number" else "2.3.0", "device_type": "ios", "locale": one.locale}
    whole = json.dumps(event | {"ip": ADDRESSES[one.address][0], "device_id": one.device, "email": EMAIL})
    letter = {"Type": "Notification", "Message": whole}
    envelope = letter | {"TopicArn": "arn:aws:sns:eu-central-1:123456789012:logins"}
    return {"envelope": json.dumps(envelope), "letter": json.dumps(letter), "cut off": whole[:-1]}.get(one.kind, whole)


def as_delivery(messages: Iterable[Sent]) -> Delivery:
    """The messages as one receive brings them; a message's handle is its id."""
    delivery = Delivery(time.monotonic() + VISIBILITY_SECONDS)
    for one in messages:
        sent_at = NOON - dt.timedelta(days=one.days_ago)
        delivery.add(one.message_id, one.message_id, int(sent_at.timestamp() * 1000), body(one))
    return delivery


class Killed:
    """A call that never returns: the loader is killed in it."""

    def __init__(self) -> None:
        self.here = asyncio.Event()

    async def __call__(self) -> None:
        await asyncio.sleep(0.01)  # whatever else is under way gets as far as it can
        self.here.set()
        await asyncio.Event().wait()


@dataclass
class MemoryQueue:
    """The messages on the queue. A killed loader's come back at once, as if the visibility time-out were over."""

    messages: dict[str, Sent] = field(default_factory=dict)
    twice: bool = False
    killed: Killed | None = None
    url: str = "http://memory/login-queue"
    in_flight: set[str] = field(default_factory=set)

    async def receive(self, wait_seconds: int) -> Delivery:
        del wait_seconds
        await asyncio.sleep(0.001)
        found = [one for message_id, one in self.messages.items() if message_id not in self.in_flight][: 5 if self.twice else 10]
        self.in_flight |= {one.message_id for one in found}
        return as_delivery(one for one in found for _ in range(1 + self.twice))

    async def delete(self, handles: Sequence[str]) -> Failures:
        if self.killed:
            await self.killed()
        for handle in handles:
            self.messages.pop(handle, None)
        return {}

    async def release(self, handles: Sequence[str]) -> Failures:
        self.in_flight -= set(handles)
        return {}

    async def depth(self) -> tuple[int, ...]:
        return (len(self.messages.keys() - self.in_flight), len(self.messages.keys() & self.in_flight), 0)


class DoomedLanding(Landing):
    """Is killed when it is about to land."""

    killed: Killed

    async def land(self, batch: Sequence[Delivery]) -> int:
        await self.killed()
        return await super().land(batch)


@dataclass
class World:
    """One database, its loader, dbt and officers."""

    database: Database
    environ: dict[str, str]
    folder: Path
    queue: MemoryQueue = field(default_factory=MemoryQueue)
    late: psycopg.Connection[Any] | None = None
    has_email: bool = False  # the policy names the field, and the project that dbt runs has its column
    runs: int = 0

    # ── loader ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def settings(self) -> LoaderSettings:
        """The loader's, with a batch that waits for nothing."""
        return LoaderSettings(
            sqs_queue_url=self.queue.url,
            pghost="127.0.0.1",
            pguser="loader",
            pgpassword=None,
            loader_password=self.database.passwords["loader"],
            loader_receivers=2,
            loader_batch_seconds=0.01,
        )

    def land(self, messages: list[Sent]) -> None:
        """Land what did not come over the queue."""

        async def work() -> None:
            opened = Landing(self.settings)
            await opened.land([as_delivery(messages)])
            await opened.close()

        asyncio.run(work())

    def drain(self, *, twice: bool = False, kill_at: str | None = None) -> None:
        """Run the loader until the queue is empty, or until it is killed before its commit or before its delete."""

        async def work() -> None:
            killed = Killed()
            self.queue.twice, self.queue.killed = twice, killed if kill_at == "delete" else None
            opened = DoomedLanding(self.settings) if kill_at == "commit" else Landing(self.settings)
            if isinstance(opened, DoomedLanding):
                opened.killed = killed
            loader = Pipeline(self.queue, opened, self.settings, Report())  # type: ignore[arg-type]
            running = asyncio.create_task(loader.run(asyncio.Event(), until_empty=True))
            ends = [running, asyncio.create_task(killed.here.wait())]
            await asyncio.wait(ends, timeout=TIMEOUT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in ends:
                task.cancel()
            ended, _ = await asyncio.gather(*ends, return_exceptions=True)
            await opened.close()
            assert killed.here.is_set() == bool(kill_at), "the fault must have happened"
            if isinstance(ended, BaseException) and not kill_at:
                raise ended

        asyncio.run(work())
        self.queue.in_flight.clear()

    def hold(self, messages: list[Sent]) -> None:
        """Land *messages* with the loader's statements in a transaction that stays open."""
        self.late = self.database.connect("loader")
        rows = [(one.message_id, NOON - dt.timedelta(days=one.days_ago), body(one), "{}") for one in messages]
        self.late.execute(landing.PARTITIONS.encode(), [sorted({row[1].date() for row in rows})])
        self.late.execute(landing.SESSION)
        self.late.autocommit = False
        self.late.cursor().executemany("insert into pg_temp.incoming values (%s, %s, %s, %s)", rows)
        self.late.execute(landing.LAND)

    def end_late(self, *, commit: bool) -> None:
        """Commit or roll back what is held."""
        assert self.late is not None
        (self.late.commit if commit else self.late.rollback)()
        self.late.close()
        self.late = None

    # ── dbt ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def dbt(self, *words: str, codes: Sequence[int] = (0,)) -> None:
        """Run dbt to its end."""
        self.runs += 1
        output = self.folder / f"dbt-{self.runs}"
        process = support.start_dbt(list(words), self.environ, output, self.project)
        process.join(TIMEOUT_SECONDS)
        assert process.exitcode in codes, (output / "output").read_text()

    def kill_dbt_at(self, statement: str) -> None:
        """Start a run, kill it while it executes *statement*, and wait until the server has given its transaction up."""
        sessions = "select count(*) from pg_stat_activity where usename = 'transformer'"
        waits = f"{sessions} and wait_event_type = 'Lock' and xact_start is not null"
        self.runs += 1
        with self.database.connect(autocommit=False) as holder:
            holder.execute(STATEMENTS[statement].encode())
            process = support.start_dbt(["run", "--selector", "each_run"], self.environ, self.folder / f"dbt-{self.runs}", self.project)
            assert wait_until(lambda: bool(self.database.value(waits)) or not process.is_alive(), TIMEOUT_SECONDS)
            assert process.is_alive(), "the fault must have happened"
            process.kill()
            process.join(TIMEOUT_SECONDS)
            holder.rollback()
        assert wait_until(lambda: self.database.value(sessions) == 0, TIMEOUT_SECONDS)

    @property
    def project(self) -> Path:
        """The project that dbt runs."""
        if not self.has_email:
            return support.ROOT / "dbt_project"
        made = self.folder / "with_email"
        if not made.exists():
            ignored = shutil.ignore_patterns("target", "logs", "dbt_packages", "profiles.yml", ".user.yml")
            shutil.copytree(support.ROOT / "dbt_project", made, ignore=ignored)
            for name, old, new in EMAIL_COLUMN:
                path = made / "models" / "marts" / name
                assert old in path.read_text()
                path.write_text(path.read_text().replace(old, new))
        return made

    def change_policy(self, locale_length: int) -> None:
        """Migrate to a policy that allows locales of that length, and, if the world has it, with the field email."""
        text = (DATABASE_FILES / "6_fields.sql").read_text()
        for old, new in [("'locale', 32", f"'locale', {locale_length}"), *EMAIL_FIELD[: self.has_email]]:
            assert old in text
            text = text.replace(old, new)
        with self.database.connect() as connection, connection.transaction():
            connection.execute(text.encode())
            connection.execute((DATABASE_FILES / "7_privileges.sql").read_bytes())  # the views are new ones

    # ── recovery ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def act(self, statement: str, parameters: Sequence[Any] = (), role: str = "privacy_officer") -> list[tuple[Any, ...]]:
        """What `python -m recovery` does: an act, tried again where a lock cannot be had."""
        with self.database.connect(role) as connection:
            connection.execute("set lock_timeout = '500ms'")
            return session.call(connection, statement, parameters)

    def scrub(self) -> None:
        """Rewrite the files of which something was deleted."""
        for (relation,) in self.act("select relation::oid from recovery.scrubs"):
            assert self.act("select recovery.scrub(%s::oid)", [relation]) == [(True,)]

    def expire(self) -> None:
        """Drop the days that are past retention."""
        while self.act("select recovery.expire_next()") != [(None,)]:
            pass

    def reveal(self, token: str) -> set[str]:
        """All four steps."""
        reveal = self.act("select recovery.request_reveal(%s, 'fraud', 'case 1')", [[token]], "pii_requester")[0]
        self.act("select recovery.approve_reveal(%s)", reveal, "pii_approver")
        self.act("select recovery.open_reveal(%s)", reveal, "pii_requester")
        return {row[0] for row in self.act("select plain_value from recovery.read_reveal(%s)", reveal, "pii_requester")}

    # ── backup ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def copy(self, source: str, target: str) -> None:
        """Make the database *target*, anew if it is there, as *source* is."""
        with self.database.server.connect() as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(target)))
        create_copy(self.database.server, target, source)
        with self.database.server.connect(target) as connection:
            # who may connect stands on the database itself, and a copy does not inherit it
            connection.execute((DATABASE_FILES / "7_privileges.sql").read_bytes())

    # ── what there is ────────────────────────────────────────────────────────────────────────────────────────────────

    def places(self) -> dict[str, Counter[str]]:
        """Message ids by the table that they are in, each as often as it is there; the list names one twice that came twice."""
        tables = {"raw": "staging.raw_logins", "masked": "marts.user_logins", "rejected": "marts.rejected_logins"}
        ids = {name: f"select message_id from {table}" for name, table in tables.items()}
        ids["waiting"] = "select distinct message_id, sent_at from staging.unjudged"
        with self.database.connect() as connection:
            return {name: Counter(row[0] for row in connection.execute(query.encode())) for name, query in ids.items()}

    def tokens(self) -> dict[tuple[str, str], str]:
        """Token by message and column."""
        columns = ("masked_ip", "masked_network", "masked_device_id", *["masked_email"][: self.has_email])
        rows = self.database.rows(f"select message_id, {', '.join(columns)} from marts.user_logins")
        return {(row[0], column): token for row in rows for column, token in zip(columns, row[1:], strict=True) if token}

    def seen_by_analyst(self) -> str:
        """Everything in the views."""
        with self.database.connect("analyst") as connection:
            rows = [connection.execute(f"select it::text from analytics.{view} as it".encode()).fetchall() for view in VIEWS[:-1]]
        return "\n".join(text for view in rows for (text,) in view)

    def audit(self) -> tuple[Counter[str], int | None]:
        """How many entries of each kind, and the first that is broken."""
        acts = Counter(dict(self.database.rows("select act, count(*) from recovery.audit group by act")))
        return acts, self.act("select first_broken from recovery.verify_audit()")[0][0]


@contextlib.contextmanager
def new_world(world: World) -> Iterator[World]:
    """*world* with an empty database and queue."""
    world.queue, world.has_email = MemoryQueue(), False
    world.copy(TEMPLATE, world.database.name)
    try:
        yield world
    finally:
        if world.late:
            world.end_late(commit=False)


def new_id() -> str:
    """A MessageId."""
    return str(uuid.uuid4())
