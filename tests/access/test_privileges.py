"""Every right, membership and function property in the database is the one in privileges.txt, which is reviewed."""

import difflib
import os
import re
from itertools import pairwise
from pathlib import Path

import pytest

from loader.errors import LoaderError
from loader.migrate import migrate
from loader.settings import LOGIN_ROLES
from tests.managed import Managed
from tests.support import DATABASE_FILES, VIEWS, Database

SNAPSHOT = Path(__file__).with_name("privileges.txt")
QUERY = SNAPSHOT.with_suffix(".sql").read_text()
BY_HAND = """
    grant rds_iam to loader;
    grant pg_read_all_data, pipeline_owner to analyst;
    alter role analyst set search_path = mine; alter role analyst in database {database} set search_path = mine;
    create role mine; grant transformer, pg_read_all_data to mine with admin option;
    set role mine; grant transformer to privacy_officer with admin option; grant pg_read_all_data to loader;
    set role privacy_officer; grant transformer to pii_approver;
    reset role
"""
# what a managed server has of its own: its administrators, and no settings that only a superuser can make
OF_THE_SERVER = re.compile(r"postgres$|administrator|rds_iam|^(member +postgres |setting +everybody: log_)")
HEADER = "# Made from the catalog by `make snapshot`; the columns are explained in privileges.sql. Review every line that changes.\n"


def listed(database: Database) -> str:
    return HEADER + "".join(f"{line}\n" for (line,) in database.rows(QUERY))


def test_privileges_are_those_that_were_reviewed(masked: Database) -> None:
    now = listed(masked)
    if os.environ.get("SNAPSHOT") == "write":
        SNAPSHOT.write_text(now)
    reviewed, found = SNAPSHOT.read_text(), now
    if isinstance(masked.server, Managed):
        reviewed, found = (
            "".join(line for line in text.splitlines(keepends=True) if not OF_THE_SERVER.search(line)) for text in (reviewed, found)
        )
    difference = "".join(difflib.unified_diff(reviewed.splitlines(keepends=True), found.splitlines(keepends=True), "reviewed", "found"))
    assert not difference, f"privileges changed; if they should, run make snapshot and have the change reviewed:\n{difference}"


def test_analyst_reads_these_views_and_nothing_else(masked_for_all: Database) -> None:
    readable = masked_for_all.rows(
        "select relnamespace::regnamespace::text || '.' || relname from pg_class "
        "where relkind in ('r', 'v', 'm', 'p', 'f') and has_any_column_privilege(oid, 'select') "
        "and relnamespace::regnamespace::text not in ('pg_catalog', 'information_schema') order by 1",
        "analyst",
    )
    views = sorted(VIEWS)
    assert [name for (name,) in readable] == [f"analytics.{view}" for view in views]
    with_rows = [view for view in views if masked_for_all.value(f"select count(*) from analytics.{view}", "analyst") > 0]
    # the logins are of one day, so no device has come back, and of no country
    assert with_rows == [view for view in views if view not in {"daily_devices", "impossible_travel"}]


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
    with masked.administer() as administrator:
        migrate(administrator, DATABASE_FILES, {})
    assert listed(masked) == before


def test_migrate_takes_back_every_membership_and_setting_but_that_which_lets_a_role_log_in_to_rds_with_a_token(masked: Database) -> None:
    """What another administrator gave too, for which REVOKE merely warns. Roles are the whole server's, so it is all taken back here."""
    with masked.connect() as connection:
        if not isinstance(masked.server, Managed):
            connection.execute("create role rds_iam")
        try:
            connection.execute(BY_HAND.format(database=masked.name).encode())
            assert masked.value("show search_path", "analyst") == "mine"
            migrate(connection, DATABASE_FILES, {})
            assert masked.value("show search_path", "analyst") == '"$user", public'
            members = masked.rows(
                "select member::regrole::text, roleid::regrole::text from pg_auth_members where member::regrole::text = any "
                "('{loader,transformer,analyst,reporter,pii_requester,pii_approver,privacy_officer}')"
            )
            assert members == [("loader", "rds_iam")]
        finally:
            connection.execute("reset role; revoke pg_read_all_data, pipeline_owner from analyst; alter role analyst reset search_path")
            connection.execute("drop owned by mine; drop role mine; revoke rds_iam from loader")
            if not isinstance(masked.server, Managed):
                connection.execute("drop role rds_iam")


def test_migrate_refuses_a_role_that_is_too_mighty(masked: Database) -> None:
    with masked.connect() as connection:
        connection.execute("alter role analyst bypassrls")
        try:
            with pytest.raises(LoaderError, match="analyst must not be superuser"):
                migrate(connection, DATABASE_FILES, {})
        finally:
            connection.execute("alter role analyst nobypassrls")


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("grant select on marts.user_logins to analyst", "+relation  marts.user_logins: analyst may select"),
        ("grant select (body) on staging.raw_logins to analyst", "+column    staging.raw_logins.body: analyst may select"),
        ("grant usage on schema masking to public", "+schema    masking: EVERYBODY may usage"),
        ("alter function masking.create_key(text, integer) reset plan_cache_mode", "-runs      masking.create_key(text,integer)"),
        ("alter function masking.canonical_ip(text) owner to transformer", "+owner     function masking.canonical_ip(text): transformer"),
        ("alter view staging.logins set (security_invoker)", "-security  staging.logins: row security off"),
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
