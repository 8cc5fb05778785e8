"""The role `pipeline_owner` owns the keys and the plain text, so nobody is it."""

import psycopg
import pytest

from loader.migrate import MigrationError, migrate
from tests.support import DATABASE_FILES, Database


def test_nobody_logs_in_as_pipeline_owner(masked_for_all: Database) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"not permitted to log in|password authentication failed"):
        psycopg.connect(
            host="127.0.0.1", port=masked_for_all.server.port, dbname=masked_for_all.name, user="pipeline_owner", password="guessed"
        )
    assert not masked_for_all.value("select rolcanlogin or rolpassword is not null from pg_authid where rolname = 'pipeline_owner'")


def test_nobody_is_a_member_of_pipeline_owner_but_the_administrator(masked_for_all: Database) -> None:
    members = masked_for_all.rows("select member::regrole::text from pg_auth_members where roleid = 'pipeline_owner'::regrole")
    assert members == [("postgres",)]


def test_migrate_takes_back_a_membership_and_a_grant_made_by_hand(masked: Database) -> None:
    """Roles belong to the server that all tests share, so what migrate does not take back is taken back here."""
    with masked.connect() as connection:
        connection.execute("grant pg_read_all_data, pipeline_owner to analyst; grant select on masking.keys to analyst")
        connection.execute("alter role analyst set search_path = mine; grant usage on schema masking, staging to analyst")
        try:
            assert migrate(connection, DATABASE_FILES, {})
            assert masked.value("select count(*) from pg_auth_members where member = 'analyst'::regrole") == 0
            assert not masked.value("select has_table_privilege('analyst', 'masking.keys', 'select')")
            assert masked.value("show search_path", "analyst") == '"$user", public'
        finally:
            connection.execute("revoke pg_read_all_data, pipeline_owner from analyst; alter role analyst reset search_path")


def test_migrate_takes_back_a_membership_that_another_administrator_gave(masked: Database) -> None:
    """REVOKE takes back what its own grantor gave, and merely warns of the rest."""
    with masked.connect() as connection:
        try:
            connection.execute(
                "create role mine; grant transformer to mine with admin option; grant pg_read_all_data to mine with admin option"
            )
            connection.execute(
                "set role mine; grant transformer to analyst with admin option; grant pg_read_all_data to loader; reset role"
            )
            connection.execute("set role analyst; grant transformer to pii_approver; reset role")
            migrate(connection, DATABASE_FILES, {})
            members = connection.execute(
                "select member::regrole::text from pg_auth_members where member::regrole::text in ('analyst', 'loader', 'pii_approver')"
            ).fetchall()
        finally:
            connection.execute("reset role; drop owned by mine; drop role mine")
    assert members == []


def test_migrate_leaves_the_membership_that_lets_a_role_log_in_to_rds_with_a_token(masked: Database) -> None:
    with masked.connect() as connection:
        try:
            connection.execute("create role rds_iam; grant rds_iam to loader")
            migrate(connection, DATABASE_FILES, {})
            members = connection.execute("select member::regrole::text from pg_auth_members where roleid = 'rds_iam'::regrole").fetchall()
        finally:
            connection.execute("drop role rds_iam")
    assert ("loader",) in members


def test_migrate_resets_what_a_role_set_for_itself_in_this_database(masked: Database) -> None:
    with masked.connect() as connection:
        connection.execute(f"alter role analyst in database {masked.name} set search_path = mine".encode())
        migrate(connection, DATABASE_FILES, {})
    assert masked.value("show search_path", "analyst") == '"$user", public'


def test_migrate_refuses_a_role_that_is_too_mighty(masked: Database) -> None:
    with masked.connect() as connection:
        connection.execute("alter role analyst bypassrls")
        try:
            with pytest.raises(MigrationError, match="analyst must not be superuser"):
                migrate(connection, DATABASE_FILES, {})
        finally:
            connection.execute("alter role analyst nobypassrls")
