"""What each role is refused: attacks of one statement, which succeed as soon as the guard named beside them is gone."""

import psycopg
import pytest
from psycopg import sql

from loader.settings import LOGIN_ROLES
from tests.support import VIEWS, Database

# What a superuser must do to make an attack succeed
OWNER = "grant pipeline_owner to {role}"
UNGUARDED = f"{OWNER}; alter table recovery.audit disable trigger user"
OWNER_OF_VIEWS = f"{OWNER}; grant create, usage on schema analytics to pipeline_owner"
SUPERUSER = "alter role {role} superuser"
DBT = "grant transformer to {role}"
ON_DATABASE = "do $$ begin execute format('grant {} on database %I to {{role}}', current_database()); end $$"
USAGE = "grant usage on schema staging, masking, marts, recovery to {role}; "
UNSECURED = f"{USAGE}grant select on masking.keys to {{role}}; alter table masking.keys disable row level security"
READ = f"{USAGE}grant select on staging.raw_logins to {{role}}; create policy mine on staging.raw_logins using (true)"
WRITE = f"{READ}; grant update, delete on staging.raw_logins to {{role}}"

INSERT = "insert into staging.raw_logins (message_id, sent_at, body) select 'mine', now(), 'x'"
REPLACED_MASKER = """
    create or replace function masking.token(version integer, inner_block bytea, outer_block bytea, canonical_value text)
    returns text language sql stable strict parallel safe return canonical_value
"""
LEAKY_FUNCTION = """
    create function pg_temp.leak(text) returns boolean language plpgsql cost 0.001
    as $$ begin raise notice '%', $1; return true; end $$
"""
TRIGGER = "create trigger mine before insert on {} execute function suppress_redundant_updates_trigger()"
# what a role could do to a table, or hang on it to be run, or looked at, by whoever works on it
DONE_TO = {
    "a trigger": TRIGGER,
    "a rule": "create rule mine as on insert to {} do also select 1",
    "a policy": "create policy mine on {} using (true)",
    "row security": "alter table {} enable row level security",
    "a default": "alter table {} alter column message_id set default 'mine'",
    "a check": "alter table {} add constraint mine check (message_id is not null)",
    "an index": "create index mine on {} (message_id)",
    "statistics": "create statistics analytics.mine on message_id, sent_at from {}",
    "a partition": "create table analytics.mine partition of {} default",
    "a foreign key": "create table analytics.m (m text, s timestamptz, foreign key (m, s) references {} (message_id, sent_at))",
    "a new owner": "alter table {} owner to transformer",
    "a comment": "comment on table {} is 'mine'",
    "a change": "update {} set message_id = message_id",
    "a drop": "drop table {} cascade",
    "an emptying": "truncate {}",
}

# By name: the statement, and the guard that is removed for it to succeed. A table's name in braces is that of a partition of it.
Attacks = dict[str, tuple[str, str]]
OF_EVERY_ROLE: Attacks = {
    "reading the keys": ("select inner_block from masking.keys", OWNER),
    "reading the keys without row security": ("select inner_block from masking.keys", UNSECURED),
    "reading what was migrated": ("select * from migrations.applied", SUPERUSER),
    "becoming the owner": ("set role pipeline_owner", OWNER),
    "becoming the administrator": ("set role postgres", SUPERUSER),
    "becoming another session user": ("set session authorization pipeline_owner", SUPERUSER),
    "making a key": ("select masking.create_key('mine')", OWNER),
    "replacing the masker": (REPLACED_MASKER, OWNER),
    "having the views read as their reader": ("alter view staging.unjudged_logins set (security_invoker)", OWNER),
    "reading personal values by name": ("select plain_value from staging.personal_values", OWNER),
    "reading the tokens of logins by name": ("select token from recovery.login_tokens", OWNER),
    "reading a partition of staging": ("select body from {staging.raw_logins}", OWNER),
    "dropping a partition of staging": ("drop table {staging.raw_logins}", OWNER),
    "changing the masking policy": ("update masking.fields set max_length = 1 where column_name = 'user_id'", OWNER),
    "dropping a key": ("delete from masking.keys", OWNER),
    "turning row security off": ("alter table staging.raw_logins disable row level security", OWNER),
    "granting on": ("grant select on masking.keys to public", OWNER),
    "listing the reveals": ("select count(*) from recovery.reveals", OWNER),
    "approving a reveal by hand": ("update recovery.reveals set approver = 'somebody'", OWNER),
    "telling who was erased": ("select count(*) from recovery.tombstones", OWNER),
    "adding to the record": ("insert into recovery.audit select 1, now(), 'nobody', 'erased', '{}', sha256('mine'), sha256('mine')", OWNER),
    "adding to the record by function": ("select recovery.record('reveal_opened', '{}')", OWNER),
    "changing the record": ("update recovery.audit set actor = 'x'", UNGUARDED),
    "deleting from the record": ("delete from recovery.audit", UNGUARDED),
    "emptying the record": ("truncate recovery.audit", UNGUARDED),
    "switching off what guards the record": ("alter table recovery.audit disable trigger user", OWNER),
    "creating a table beside the keys": ("create table masking.mine ()", OWNER),
    "creating a function beside the keys": ("create function masking.f() returns int language sql return 1", OWNER),
    "creating a table in staging": ("create table staging.mine ()", OWNER),
    "creating a table in public": ("create table public.mine ()", "grant create on schema public to {role}"),
    "creating a function in pg_catalog": ("create function pg_catalog.f() returns int language sql return 1", SUPERUSER),
    "creating a schema": ("create schema mine", ON_DATABASE.format("create")),
    "creating a role": ("create role mine", "alter role {role} createrole"),
    "creating an extension that everybody may": ("create extension citext schema public", ON_DATABASE.format("create")),
    "dblink": ("create extension dblink schema public", SUPERUSER),
    "a foreign data wrapper": ("create foreign data wrapper mine", SUPERUSER),
    "a publication": ("create publication mine", ON_DATABASE.format("create")),
    "pg_read_file": ("select pg_read_file('PG_VERSION')", "grant execute on function pg_read_file(text) to {role}"),
    "COPY PROGRAM": ("copy (select 1) to program 'cat > /dev/null'", "grant pg_execute_server_program to {role}"),
    "COPY to a file": ("copy (select 1) to '/dev/null'", "grant pg_write_server_files to {role}"),
    "loading a library": ("load 'auto_explain'", SUPERUSER),
    "importing a file as a large object": ("select lo_import('PG_VERSION')", SUPERUSER),
    "creating a large object": ("select lo_create(0)", "grant execute on function lo_create(oid) to {role}"),
    "filling a large object": ("select lo_from_bytea(0, 'x')", "grant execute on function lo_from_bytea(oid, bytea) to {role}"),
    "reading large objects": ("select count(*) from pg_largeobject", "grant select on pg_largeobject to {role}"),
    "reading passwords": ("select rolpassword from pg_authid", "grant select on pg_authid to {role}"),
    "reading raw statistics": ("select * from pg_statistic", "grant select on pg_statistic to {role}"),
    "reading the server's settings files": ("select * from pg_file_settings", SUPERUSER),
    "reading where the server's files are": ("show data_directory", "grant pg_read_all_settings to {role}"),
    "logging every statement": ("set log_statement = 'all'", "grant set on parameter log_statement to {role}"),
    "switching triggers off": ("set session_replication_role = replica", SUPERUSER),
}
BUT_OF_DBT: Attacks = {
    "reading staging": ("select body from staging.raw_logins", READ),
    "reading marts": ("select message_id from marts.user_logins", f"{USAGE}grant select on marts.user_logins to {{role}}"),
    "reading rejects": ("select reasons from marts.rejected_logins", f"{USAGE}grant select on marts.rejected_logins to {{role}}"),
    "reading what is masked": ("select masked_ip from staging.logins", DBT),
    "taking tokens and bodies together": ("select masked_ip, body from staging.logins natural join staging.raw_logins", DBT),
}
OF_PEOPLE: Attacks = BUT_OF_DBT | {
    "creating a temp table": ("create temp table mine ()", ON_DATABASE.format("temporary")),
    "creating a leaky function": (LEAKY_FUNCTION, ON_DATABASE.format("temporary")),
}
VIEW: Attacks = {"reading a view": ("select masked_ip from analytics.user_logins", "grant analyst to {role}")}
ATTACKS: dict[str, Attacks] = {
    "analyst": OF_PEOPLE
    | {
        "creating a table among the views": ("create table analytics.mine ()", "grant create on schema analytics to {role}"),
        "taking the barrier off a view": ("alter view analytics.shared_ips reset (security_barrier)", DBT),
    },
    "reporter": OF_PEOPLE | {f"reading {view}": (f"select count(*) from analytics.{view}", "grant analyst to {role}") for view in VIEWS},
    "pii_requester": OF_PEOPLE | VIEW,
    "pii_approver": OF_PEOPLE | VIEW,
    "privacy_officer": OF_PEOPLE | VIEW | {"shortening the retention by hand": ("update recovery.retention set raw_days = 14", OWNER)},
    # it lands, and reads nothing back
    "loader": BUT_OF_DBT
    | VIEW
    | {
        "reading what it just landed": (f"{INSERT} returning body", READ),
        "a conflict that returns the row": (f"{INSERT} on conflict (message_id, sent_at) do nothing", READ),
        "overwriting a body": (f"{INSERT} on conflict (message_id, sent_at) do update set body = excluded.body", WRITE),
        "changing a body": ("update staging.raw_logins set body = 'x'", WRITE),
        "deleting a message": ("delete from staging.raw_logins", WRITE),
        "emptying staging": ("truncate staging.raw_logins", "grant truncate on staging.raw_logins to loader"),
        "locking staging": ("do $$ begin lock table staging.raw_logins; end $$", WRITE),
        "choosing when a message landed": ("insert into staging.raw_logins select 'mine', now(), 'x', null, now()", OWNER),
        "a trigger on staging": (TRIGGER.format("staging.raw_logins"), "grant trigger on staging.raw_logins to loader"),
        "reading the work list": ("select count(*) from staging.unjudged", "grant select on staging.unjudged to loader"),
        "taking a message off the work list": ("delete from staging.unjudged", "grant select, delete on staging.unjudged to loader"),
        "emptying the work list": ("truncate staging.unjudged", "grant truncate on staging.unjudged to loader"),
        "reading what is masked of the work list": ("select count(masked_ip) from staging.unjudged_logins", DBT),
    },
    # it can hang nothing on what recovery and the loader work on
    "transformer": {
        f"{what} of {table}": (statement.format(table), OWNER_OF_VIEWS)
        for table in ("staging.raw_logins", "marts.user_logins", "marts.rejected_logins")
        for what, statement in DONE_TO.items()
    }
    | {
        "reading the keys through a view of its own": ("create view analytics.k as table masking.keys; table analytics.k", OWNER_OF_VIEWS),
        "taking the keys over": ("alter table masking.keys owner to transformer", OWNER),
        "a foreign key on the keys": ("create table analytics.mine (d text references masking.keys)", OWNER),
        "a trigger on the keys": (TRIGGER.format("masking.keys"), OWNER),
        "a policy on the keys": ("create policy mine on masking.keys to transformer using (true)", OWNER),
        "inheriting the keys": ("create table analytics.mine () inherits (masking.keys)", OWNER),
        "computing with a key of its own": ("select masking.hmac_block('x', 54)", OWNER),
        "landing a message": (INSERT, OWNER),
        "deleting a message": ("delete from staging.raw_logins", OWNER),
        "deleting a login": ("delete from marts.user_logins", OWNER),
        "statistics of bodies": ("alter table staging.raw_logins alter column body set statistics 100", OWNER),
        "making partitions": ("select staging.ensure_partitions(array[date '2024-02-29'])", OWNER),
        "a table in marts": ("create table marts.mine ()", OWNER),
        "writing past the partitioned table": ("insert into {marts.user_logins} select * from marts.user_logins limit 0", OWNER),
        "replacing the view that masks": ("create or replace view staging.logins as table staging.unjudged_logins", OWNER),
        "writing through a view": ("create rule mine as on insert to staging.logins do instead nothing", OWNER),
        "purging by its own list": ("select recovery.delete_messages(array['m'], array[now()])", OWNER),
    },
}
# By call: who alone may make it.
ACTS = {
    "request_reveal(array['v1:0'], 'fraud', 'case 1')": "pii_requester",
    "approve_reveal(gen_random_uuid())": "pii_approver",
    "open_reveal(gen_random_uuid())": "pii_requester",
    "read_reveal(gen_random_uuid())": "pii_requester",
    "erase('{u}')": "privacy_officer",
    "rotate()": "privacy_officer",
    "expire_next()": "privacy_officer",
    "scrub(0::oid)": "privacy_officer",
    "set_retention(40)": "privacy_officer",
    "verify_audit()": "privacy_officer",
    "audit_head()": "privacy_officer",
}


@pytest.mark.parametrize(("role", "attack"), [(role, attack) for role in LOGIN_ROLES for attack in OF_EVERY_ROLE | ATTACKS[role]])
def test_the_role_is_refused(masked_for_all: Database, role: str, attack: str) -> None:
    """Logged in it is refused; with the guard removed, in a transaction that is rolled back, it succeeds."""
    statement, guard = (OF_EVERY_ROLE | ATTACKS[role])[attack]
    partitions = masked_for_all.rows("select inhparent::regclass::text, max(inhrelid::regclass::text) from pg_inherits group by 1")
    for parent, partition in partitions:
        statement = statement.replace(f"{{{parent}}}", partition)
    with masked_for_all.connect(role) as connection:
        # a convenience of the analyst's, which anybody may switch off
        connection.execute("set default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"^(permission denied|must be|access to library)"):
            connection.execute(statement.encode())

    with masked_for_all.connect(autocommit=False) as connection:
        connection.execute(guard.replace("{role}", role).encode())
        connection.execute(sql.SQL("set local session authorization {}").format(sql.Identifier(role)))
        result = connection.execute(statement.encode())
        assert result.description is None or result.rowcount > 0
        connection.rollback()


def test_a_reporter_reads_the_two_tables_in_which_no_group_is_small(masked_for_all: Database) -> None:
    readable = masked_for_all.rows(
        "select oid::regclass::text from pg_class where relnamespace::regnamespace::text not in ('pg_catalog', 'information_schema') "
        "and relkind in ('r', 'v', 'm', 'p', 'f') and has_any_column_privilege(oid, 'select') order by 1",
        "reporter",
    )
    assert readable == [("reports.daily_devices",), ("reports.daily_logins",)]
    for (table,) in readable:
        masked_for_all.rows(f"select * from {table}", "reporter")


@pytest.mark.parametrize("act", ACTS)
def test_an_act_is_one_roles_alone(masked_for_all: Database, act: str) -> None:
    def is_allowed(role: str) -> bool:
        with masked_for_all.connect(role, autocommit=False) as connection:
            try:
                connection.execute(f"select recovery.{act}".encode())
            except psycopg.Error as error:
                # what the function itself then refuses, it was allowed to look at
                return "PL/pgSQL function recovery." in (error.diag.context or "")
            finally:
                connection.rollback()
        return True

    assert [role for role in LOGIN_ROLES if is_allowed(role)] == [ACTS[act]]


def test_dbts_role_can_have_no_value_masked_that_it_chooses(masked_for_all: Database) -> None:
    """It reads staging and what the views mask of it, so it can tell whose token is whose: why it is nobody else's role.

    What it may call holds no key: it runs as its caller, or takes no value at all.
    """
    callable_as_owner = masked_for_all.rows(
        "select oid::regprocedure::text from pg_proc where prosecdef and has_function_privilege(oid, 'execute') "
        "and pronamespace::regnamespace::text in ('staging', 'masking', 'marts', 'recovery')",
        "transformer",
    )
    assert callable_as_owner == [("staging.begin_judging(bigint,boolean)",)]
