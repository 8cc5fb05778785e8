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


BY_HAND = """
    create role rds_iam;
    create role mine;
    grant rds_iam to loader;
    grant pg_read_all_data, pipeline_owner to analyst;
    alter role analyst set search_path = mine;
    alter role analyst in database {database} set search_path = mine;
    grant transformer, pg_read_all_data to mine with admin option;
    set role mine;
    grant transformer to privacy_officer with admin option;
    grant pg_read_all_data to loader;
    set role privacy_officer;
    grant transformer to pii_approver;
    reset role
"""


def test_migrate_takes_back_every_membership_and_setting_but_that_which_lets_a_role_log_in_to_rds_with_a_token(masked: Database) -> None:
    """What another administrator gave too, for which REVOKE merely warns. Roles are the whole server's, so it is all taken back here."""
    with masked.connect() as connection:
        try:
            connection.execute(BY_HAND.format(database=masked.name).encode())
            assert masked.value("show search_path", "analyst") == "mine"
            migrate(connection, DATABASE_FILES, {})
            assert masked.value("show search_path", "analyst") == '"$user", public'
            members = masked.rows(
                "select member::regrole::text, roleid::regrole::text from pg_auth_members where member::regrole::text = any "
                "('{loader,transformer,analyst,pii_requester,pii_approver,privacy_officer}')"
            )
            assert members == [("loader", "rds_iam")]
        finally:
            connection.execute("reset role; revoke pg_read_all_data, pipeline_owner from analyst; alter role analyst reset search_path")
            connection.execute("drop owned by mine; drop role mine; drop role rds_iam")


def test_migrate_refuses_a_role_that_is_too_mighty(masked: Database) -> None:
    with masked.connect() as connection:
        connection.execute("alter role analyst bypassrls")
        try:
            with pytest.raises(MigrationError, match="analyst must not be superuser"):
                migrate(connection, DATABASE_FILES, {})
        finally:
            connection.execute("alter role analyst nobypassrls")
