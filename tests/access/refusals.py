"""Attacks of one statement: refused to the role that logs in, and successful as soon as the guard named beside them is gone."""

from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql

from tests.support import Database

ON_DATABASE = "do $$ begin execute format('grant {} on database %I to {}', current_database()); end $$"
REPLACED_MASKER = """
    create or replace function masking.token(version integer, inner_block bytea, outer_block bytea, canonical_value text)
    returns text language sql stable strict parallel safe return canonical_value
"""
LEAKY_FUNCTION = """
    create function pg_temp.leak(text) returns boolean language plpgsql cost 0.001
    as $$ begin raise notice '%', $1; return true; end $$
"""
TRIGGER = "create trigger mine before insert on {} execute function suppress_redundant_updates_trigger()"


@dataclass(frozen=True)
class Attack:
    """One statement, what a superuser must do to make it succeed, and the SQLSTATE of its refusal until then."""

    name: str
    statement: str
    guard_removed: str
    sqlstate: str = "42501"  # insufficient_privilege


def superuser(role: str) -> str:
    return f"alter role {role} superuser"


def on_everything(role: str) -> tuple[Attack, ...]:
    """What no role of the pipeline may do, whatever else it may."""
    anything = superuser(role)
    owner = f"grant pipeline_owner to {role}"
    return (
        Attack("reading the keys", "select inner_block from masking.keys", owner),
        Attack(
            "reading the keys by a grant made by mistake, without row security",
            "select inner_block from masking.keys",
            f"grant usage on schema masking to {role}; grant select on masking.keys to {role}; "
            "alter table masking.keys disable row level security",
        ),
        Attack("reading what was migrated", "select * from migrations.applied", anything),
        Attack("becoming the owner", "set role pipeline_owner", owner),
        Attack("becoming the administrator", "set role postgres", anything),
        Attack("becoming another session user", "set session authorization pipeline_owner", anything),
        Attack("making a key", "select masking.create_key('of its own')", owner),
        Attack("replacing the masker", REPLACED_MASKER, owner),
        Attack("having the views read as their reader", "alter view staging.unjudged_logins set (security_invoker)", owner),
        Attack("seeing which person a tombstone is of", "select masking.token(version, inner_block, outer_block, 'u-1') from masking.keys where domain = 'erased_user'", owner),
        Attack("reading personal values by name", "select plain_value from staging.personal_values", owner),
        Attack("changing the masking policy", "update masking.fields set max_length = 1", owner),
        Attack("dropping a key", "delete from masking.keys", owner),
        Attack("turning row security off", "alter table staging.raw_logins disable row level security", owner),
        Attack("granting on", "grant select on masking.keys to public", owner),
        Attack("creating a table beside the keys", "create table masking.mine ()", owner),
        Attack("creating a function beside the keys", "create function masking.f() returns int language sql return 1", owner),
        Attack("creating a table in staging", "create table staging.mine ()", owner),
        Attack("creating a table in public", "create table public.mine ()", f"grant create on schema public to {role}"),
        Attack("creating a function in pg_catalog", "create function pg_catalog.f() returns int language sql return 1", anything),
        Attack("creating a schema", "create schema mine", ON_DATABASE.format("create", role)),
        Attack("creating a role", "create role mine", f"alter role {role} createrole"),
        Attack("creating an extension that everybody may", "create extension citext schema public", ON_DATABASE.format("create", role)),
        Attack("dblink", "create extension dblink schema public", anything),
        Attack("file_fdw", "create extension file_fdw schema public", anything),
        Attack("postgres_fdw", "create extension postgres_fdw schema public", anything),
        Attack("a foreign data wrapper", "create foreign data wrapper mine", anything),
        Attack("a publication", "create publication mine", ON_DATABASE.format("create", role)),
        Attack("pg_read_file", "select pg_read_file('PG_VERSION')", f"grant execute on function pg_read_file(text) to {role}"),
        Attack("pg_ls_dir", "select pg_ls_dir('.')", f"grant execute on function pg_ls_dir(text) to {role}"),
        Attack("COPY PROGRAM", "copy (select 1) to program 'cat > /dev/null'", f"grant pg_execute_server_program to {role}"),
        Attack("COPY to a file", "copy (select 1) to '/dev/null'", f"grant pg_write_server_files to {role}"),
        Attack("loading a library", "load 'auto_explain'", anything),
        Attack("importing a file as a large object", "select lo_import('PG_VERSION')", anything),
        Attack("creating a large object", "select lo_create(0)", f"grant execute on function lo_create(oid) to {role}"),
        Attack("filling a large object", "select lo_from_bytea(0, 'x')", f"grant execute on function lo_from_bytea(oid, bytea) to {role}"),
        Attack("reading large objects", "select count(*) from pg_largeobject", f"grant select on pg_largeobject to {role}"),
        Attack("reading passwords", "select rolpassword from pg_authid", f"grant select on pg_authid to {role}"),
        Attack("reading raw statistics", "select * from pg_statistic", f"grant select on pg_statistic to {role}"),
        Attack("reading the server's settings files", "select * from pg_file_settings", anything),
        Attack("reading where the server's files are", "show data_directory", f"grant pg_read_all_settings to {role}"),
        Attack("reading who may connect", "select * from pg_hba_file_rules", anything),
        Attack("logging every statement", "set log_statement = 'all'", f"grant set on parameter log_statement to {role}"),
        Attack("switching triggers off", "set session_replication_role = replica", anything),
    )


def attacks_as(role: str, *attacks: Attack) -> pytest.MarkDecorator:
    """Parametrise a test with *attacks* and those that no role may succeed with, each under its name."""
    every = (*attacks, *on_everything(role))
    return pytest.mark.parametrize("attack", every, ids=[attack.name for attack in every])


def assert_refused(database: Database, role: str, attack: Attack) -> None:
    """Log in as *role* and be refused; then remove the guard, in a transaction that is rolled back, and succeed."""
    with database.connect(role) as connection:
        # a convenience of the analyst's, which anybody may switch off
        connection.execute("set default_transaction_read_only = off")
        with pytest.raises(psycopg.Error) as refusal:
            connection.execute(_named(database, attack.statement))
        assert refusal.value.sqlstate == attack.sqlstate, refusal.value
        reason = refusal.value.diag.message_primary or ""
        assert reason.startswith(("permission denied", "must be", "access to library")), reason

    with database.connect(autocommit=False) as connection:
        connection.execute(attack.guard_removed.encode())
        connection.execute(sql.SQL("set local session authorization {}").format(sql.Identifier(role)))
        result = connection.execute(_named(database, attack.statement))
        assert result.description is None or result.rowcount > 0
        connection.rollback()


def _named(database: Database, statement: str) -> bytes:
    """*statement* with the name of a partition of raw_logins where it says {partition}, and of user_logins where it says {mart}."""
    for name, parent in (("{partition}", "staging.raw_logins"), ("{mart}", "marts.user_logins")):
        if name in statement:
            query = f"select inhrelid::regclass::text from pg_inherits where inhparent = '{parent}'::regclass"
            statement = statement.replace(name, database.value(query))
    return statement.encode()
