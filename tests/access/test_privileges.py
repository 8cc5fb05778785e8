"""Every right, membership and function property in the database is the one in privileges.txt, which is reviewed."""

import difflib
import os
from itertools import pairwise
from pathlib import Path

import pytest

from loader.migrate import migrate
from tests.conftest import LOGIN_ROLES
from tests.support import DATABASE_FILES, Database

SNAPSHOT = Path(__file__).with_name("privileges.txt")
QUERY = SNAPSHOT.with_suffix(".sql").read_text()
HEADER = "# Made from the catalog by `make snapshot`; the columns are explained in privileges.sql. Review every line that changes.\n"


def listed(database: Database) -> str:
    return HEADER + "".join(f"{line}\n" for (line,) in database.rows(QUERY))


def test_privileges_are_those_that_were_reviewed(masked: Database) -> None:
    now = listed(masked)
    if os.environ.get("SNAPSHOT") == "write":
        SNAPSHOT.write_text(now)
    difference = "".join(
        difflib.unified_diff(SNAPSHOT.read_text().splitlines(keepends=True), now.splitlines(keepends=True), "reviewed", "found")
    )
    assert not difference, f"privileges changed; if they should, run make snapshot and have the change reviewed:\n{difference}"


def test_migrate_takes_back_whatever_was_granted_by_hand(masked: Database) -> None:
    """And what was granted on from there."""
    before = listed(masked)
    schemas, roles = "staging, masking, recovery, marts, analytics", ", ".join(LOGIN_ROLES)
    with masked.connect() as connection:
        connection.execute(f"grant all on database {masked.name} to {roles} with grant option".encode())
        connection.execute(f"grant all on schema public, {schemas} to {roles} with grant option".encode())
        for kind in ("tables", "functions"):
            connection.execute(f"grant all on all {kind} in schema {schemas} to {roles} with grant option".encode())
        connection.execute(f"grant select (body) on staging.raw_logins to {roles}".encode())
        for role, other in pairwise(LOGIN_ROLES):
            connection.execute(f"set role {role}; grant select on marts.user_logins to {other}; reset role".encode())
        assert all(f"relation  marts.user_logins: {role} may" in listed(masked) for role in LOGIN_ROLES)
        migrate(connection, DATABASE_FILES, {})
    assert listed(masked) == before


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("grant select on marts.user_logins to analyst", "+relation  marts.user_logins: analyst may select"),
        ("grant select (body) on staging.raw_logins to analyst", "+column    staging.raw_logins.body: analyst may select"),
        ("grant usage on schema masking to public", "+schema    masking: EVERYBODY may usage"),
        ("alter function masking.create_key(text, integer) reset plan_cache_mode", "-runs      masking.create_key(text,integer)"),
        ("alter function masking.canonical_ip(text) owner to transformer", "+owner     function masking.canonical_ip(text): transformer"),
        ("alter view staging.logins owner to transformer", "+owner     relation staging.logins: transformer"),
        ("alter view staging.logins set (security_invoker)", "-security  staging.logins: row security off"),
        (
            "grant execute on function masking.create_key(text, integer) to transformer",
            "+function  masking.create_key(text,integer): transformer",
        ),
        ("grant execute on function lo_create(oid) to public", "+function  pg_catalog.lo_create: EVERYBODY may execute"),
        ("alter view analytics.shared_ips reset (security_barrier)", "-security  analytics.shared_ips"),
        ("alter table masking.keys disable row level security", "-security  masking.keys"),
        ("alter table staging.raw_logins alter column body set statistics 100", "-unseen    staging.raw_logins.body"),
        ("grant pg_monitor to analyst", "+member    analyst is a member of pg_monitor"),
        ("alter role analyst bypassrls", "+role      analyst: login, WITH ATTRIBUTES OF AN ADMINISTRATOR"),
        ("create policy mine on masking.keys using (true)", "+policy    masking.keys: mine"),
    ],
)
def test_a_change_shows_in_the_snapshot(masked_for_all: Database, change: str, shown: str) -> None:
    with masked_for_all.connect(autocommit=False) as connection:
        before = [line for (line,) in connection.execute(QUERY.encode()).fetchall()]
        connection.execute(change.encode())
        after = [line for (line,) in connection.execute(QUERY.encode()).fetchall()]
        connection.rollback()
    assert any(line.startswith(shown) for line in difflib.unified_diff(before, after))
