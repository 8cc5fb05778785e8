"""A database of the first edition is brought over by migrate: nothing lost, nothing doubled, each token the same."""

import contextlib
import datetime as dt
import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import errors

from loader.errors import LoaderError
from loader.migrate import migrate
from sandbox import postgres
from sandbox.postgres import Postgres
from tests import canaries
from tests.support import DATABASE_FILES, Database, dbt, land_messages

HERE = Path(__file__).parent
PASSWORDS = dict.fromkeys(("loader", "transformer", "privacy_officer", "analyst"), "not-a-secret")
ROLES = ("pipeline_owner", "marts_keeper", "loader", "transformer", "analyst", "pii_requester", "pii_approver", "privacy_officer")
# what must be the same before and after, keys and tokens byte for byte
KEPT = {
    "messages": "select message_id, sent_at, body, landed_at from staging.raw_logins",
    "logins": """
        select message_id, sent_at, user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date,
            ip_is_valid, masked_network, app_version_parts
        from marts.user_logins
    """,
    "rejections": "select message_id, sent_at, reasons, landed_at from marts.rejected_logins",
    "keys": "select domain, version, inner_block, outer_block, created_at from masking.keys",
    "audit": "select * from recovery.audit",
    "tombstones": "select * from recovery.tombstones",
    "erased messages": "select * from recovery.erased_messages",
    "retention": "select * from recovery.retention",
    "days to scrub": "select relation::text, 1 from recovery.scrubs where relation::text !~ '^marts'",
}
WAITING = {"waiting", "waiting-rejected", "detached-waiting", "lost", "erased-3"}
numbers = itertools.count(1)
NOON = dt.datetime.now(dt.UTC).replace(hour=12, minute=0, second=0, microsecond=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server of this file's own, for marts_keeper belongs to a server."""
    with postgres.throwaway(tmp_path_factory.mktemp("postgres"), "not-a-secret") as made:
        with made.connect() as connection:
            connection.execute("create role administrator login createrole password 'not-a-secret'")
        yield made


@pytest.fixture
def first(server: Postgres) -> Database:
    """A database of the first edition, of an administrator who is no superuser."""
    name = f"first_{next(numbers)}"
    made = Database(Postgres(server.directory, server.port, "administrator", server.password), name, PASSWORDS)
    with server.connect() as connection:
        connection.execute(f"create database {name} owner administrator".encode())
    with made.connect() as connection:
        for role in ROLES:
            with contextlib.suppress(errors.DuplicateObject):
                connection.execute(f"create role {role} {'nologin' if role in ROLES[:2] else 'login'}".encode())
        connection.execute("grant pipeline_owner, transformer to administrator with inherit true, set true")
        connection.execute("grant transformer to marts_keeper with set false; grant marts_keeper to pipeline_owner with set true")
    with server.connect(name) as connection:
        connection.execute((HERE / "first_edition.sql").read_bytes())
        connection.execute("reset all; alter schema migrations owner to administrator")
        connection.execute("alter table migrations.applied owner to administrator")
        connection.execute((HERE / "first_rows.sql").read_bytes())
    return made


def upgrade(database: Database, directory: Path = DATABASE_FILES) -> None:
    with database.connect() as connection:
        migrate(connection, directory, PASSWORDS)


def kept(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    return {name: database.rows(f"{query} order by 1, 2") for name, query in KEPT.items()}


def ids(database: Database, table: str) -> list[str]:
    return sorted(message_id for (message_id,) in database.rows(f"select message_id from {table}"))


def test_everything_is_brought_over_and_goes_on(first: Database, tmp_path: Path) -> None:
    before = kept(first)
    anchor_entry, anchor_seal = first.rows("select * from recovery.audit_head()")[0]
    assert first.rows("select left(masked_ip, 3), count(*) from marts.user_logins group by 1 order by 1") == [("v1:", 5), ("v2:", 11)]
    assert all(before.values())
    assert first.value("select count(*) from recovery.rotated_tokens") > 0
    day = f"{NOON - dt.timedelta(days=2):%Y%m%d}"
    with first.connect() as connection:
        connection.execute(f"alter table staging.raw_logins detach partition staging.raw_logins_{day}".encode())

    for _ in range(2):
        upgrade(first)
        assert (kept(first), ids(first, "staging.unjudged")) == (before, sorted(WAITING))
    assert first.rows(f"select * from recovery.verify_audit({anchor_entry}, '{anchor_seal}')") == [(anchor_entry, None)]
    assert first.rows("select nspname from pg_namespace where nspname like 'first%'") == []
    assert first.rows("select file from migrations.applied where file ~ '^(3_tables|4_functions|5_keys)'") == []
    assert first.value("select to_regrole('marts_keeper')") is None

    erased, new = canaries.login(user_id="erased-user"), canaries.login(user_id="user-2", ip="192.0.2.2")
    land_messages(first, {"erased-1": erased, "new": new}, NOON)
    land_messages(first, {"erased-4": erased})
    built = dbt(first, ["run"], tmp_path)
    assert built.returncode == 0, built.stdout

    masked = {row[0] for row in before["logins"]} | WAITING - {"waiting-rejected", "erased-3"} | {"new"}
    assert ids(first, "marts.user_logins") == sorted(masked)
    assert ids(first, "marts.rejected_logins") == ["rejected-1", "rejected-2", "waiting-rejected"]
    assert first.value("select count(*) from staging.raw_logins where body like '%erased-user%'") == 0
    assert first.value("select count(distinct masked_ip) from marts.user_logins where message_id in ('new', 'masked-0-2')") == 1
    assert first.rows("select sum(waiting), sum(lost), sum(in_both) from analytics.daily_reconciliation", "transformer") == [(0, 0, 0)]
    assert first.value("select count(*) from analytics.user_logins", "analyst") == len(masked)
    # the tokens whose plain text has expired, and no others
    assert first.value("select kept_logins from recovery.rotate()", "privacy_officer") == 5
    assert first.rows("select recovery.scrub(relation) from recovery.scrubs", "privacy_officer").count((True,)) >= 2


@pytest.mark.parametrize(
    ("insert", "lost"),
    [
        ("recovery.tombstones", {"tombstones"}),
        ("marts.rejected_logins", {"rejections", "work list"}),
        ("staging.unjudged", {"work list"}),
    ],
)
def test_what_is_not_moved_is_seen(first: Database, tmp_path: Path, insert: str, lost: set[str]) -> None:
    """The control of the comparison above."""
    before = kept(first)
    files = Path(shutil.copytree(DATABASE_FILES, tmp_path / "database"))
    changed = files / "8_first_edition.sql"
    changed.write_text(re.sub(rf"^    insert into {insert}[^;]+;$", "", changed.read_text(), count=1, flags=re.MULTILINE))

    upgrade(first, files)

    after = kept(first) | ({} if ids(first, "staging.unjudged") == sorted(WAITING) else {"work list": []})
    assert {name for name, rows in after.items() if before.get(name) != rows} == lost


def test_an_upgrade_that_would_lose_something_is_refused(server: Postgres, first: Database) -> None:
    with first.connect() as connection:
        connection.execute("create table marts.mine ()")
        with pytest.raises(LoaderError, match=r"marts\.mine is not of the first edition, .*; move it"):
            upgrade(first)
        connection.execute("drop table marts.mine; alter table marts.user_logins add masked_email text")
        with pytest.raises(LoaderError, match=r'column "masked_email" of relation "user_logins" does not exist'):
            upgrade(first)
        connection.execute("alter table marts.user_logins drop masked_email; create view public.mine as table analytics.shared_ips")
        with pytest.raises(LoaderError, match=r"\(view mine depends on view analytics\.shared_ips\)"):
            upgrade(first)
        connection.execute("drop view public.mine; alter role loader password 'not-a-secret'")
    with first.connect("loader"), pytest.raises(LoaderError, match="loader is connected; stop the loader and dbt of the first edition"):
        upgrade(first)
    while first.value("select count(*) from pg_stat_activity where usename = 'loader'"):
        pass
    before = kept(first)
    with Database(server, "postgres", PASSWORDS).connect() as connection:
        # another database uses the role
        connection.execute("create schema another authorization marts_keeper")
        upgrade(first)
        assert kept(first) == before
        assert first.value("select pg_has_role('pipeline_owner', 'marts_keeper', 'set')") is True
        connection.execute("drop schema another")
