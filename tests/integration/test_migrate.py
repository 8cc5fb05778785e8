"""`database/` is applied once, again without harm, whole or not at all, and by an administrator who is no superuser."""

import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from psycopg import sql

import loader.migrate
from loader.migrate import MigrationError, migrate
from sandbox import postgres
from sandbox.postgres import Postgres
from tests.support import DATABASE_FILES, Database, land

SCHEMAS = "('staging', 'masking', 'recovery', 'marts', 'analytics')"
# what two migrates must agree on: objects with their owners and grants, keys, policies and triggers
STATE = f"""
select relnamespace::regnamespace::text, relname, relkind::text, coalesce(relacl, acldefault('r', relowner))::text, relowner::regrole::text
from pg_class where relnamespace::regnamespace::text in {SCHEMAS}
union all
select pronamespace::regnamespace::text, oid::regprocedure::text, 'function', proacl::text, proowner::regrole::text
from pg_proc where pronamespace::regnamespace::text in {SCHEMAS}
union all
select nspname, '', 'schema', nspacl::text, nspowner::regrole::text from pg_namespace where nspname in {SCHEMAS}
union all
select 'staging', attname, 'column', attacl::text, null from pg_attribute where attrelid = to_regclass('staging.raw_logins')
union all
select 'masking', domain, 'key', version::text, encode(inner_block || outer_block, 'hex') from masking.keys
union all
select 'staging', policyname, permissive, cmd, concat(roles, qual, with_check) from pg_policies where tablename = 'raw_logins'
union all
select 'recovery', tgname, 'trigger', tgenabled::text, null from pg_trigger where tgrelid = 'recovery.audit'::regclass
union all
select relnamespace::regnamespace::text, relname, 'row security', relrowsecurity::text, null
from pg_class where relname in ('raw_logins', 'keys')
order by 1, 2, 3
"""
BY_HAND = {
    "a policy dropped": "drop policy loader_lands on staging.raw_logins",
    "a policy altered": """
        drop policy transformer_reads on staging.raw_logins;
        create policy transformer_reads on staging.raw_logins as restrictive for select to transformer using (true)
    """,
    "row security disabled": """
        alter table staging.raw_logins disable row level security;
        alter table masking.keys disable row level security
    """,
    "the audit's trigger disabled": "alter table recovery.audit disable trigger refuse_change",
    "a grant to everyone": """
        grant usage on schema staging, masking to analyst;
        grant select on staging.raw_logins, masking.keys to public
    """,
    "a grant by somebody who could pass it on": """
        grant usage on schema staging to another with grant option;
        grant select (body) on staging.raw_logins to another with grant option;
        set role another;
        grant usage on schema staging to analyst;
        grant select (body) on staging.raw_logins to analyst
    """,
}
COLUMN_READ = "select has_column_privilege('analyst', 'staging.raw_logins', 'body', 'select')"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A copy of `database/` to break."""
    return Path(shutil.copytree(DATABASE_FILES, tmp_path / "database"))


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Postgres]:
    """A server on which none of the roles exists yet."""
    with postgres.throwaway(tmp_path, "not-a-secret") as server:
        yield server


def apply(
    database: Database, directory: Path = DATABASE_FILES, passwords: Mapping[str, str] | None = None, patience_seconds: float = 60
) -> list[str]:
    with database.connect() as connection:
        return migrate(connection, directory, passwords or {}, patience_seconds)


def test_applying_again_changes_nothing_and_stops_nobody(database: Database, files: Path) -> None:
    land(database, ["{}"])
    before = database.rows(STATE)
    # the last file sees all locks that the transaction has taken; a lock as light as CREATE FUNCTION's stops nobody
    (files / "9_locks.sql").write_text(
        "create table public.locks as select relation::regclass::text, mode from pg_locks"
        " where pid = pg_backend_pid() and locktype = 'relation' and granted"
        " and relation::regclass::text ~ '^(staging|marts|recovery|masking)'"
        " and mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"
    )

    ran = apply(database, files)

    assert not [name for name in ran if name.startswith("4_tables")]
    assert database.rows(STATE) == before
    assert database.rows("select * from public.locks") == []


def test_a_grant_is_written_only_where_it_differs(database: Database, files: Path) -> None:
    versions = (
        "select oid, xmin::text from pg_class "
        "where relnamespace::regnamespace::text in ('staging', 'masking', 'marts', 'recovery') order by oid"
    )
    apply(database, files)
    before = database.rows(versions)

    apply(database, files)
    assert database.rows(versions) == before

    with database.connect() as connection:
        connection.execute("grant select on staging.raw_logins to analyst")
    apply(database, files)
    assert database.rows(versions) != before
    assert database.rows("select has_table_privilege('analyst', 'staging.raw_logins', 'select')") == [(False,)]


@pytest.mark.parametrize("relation", ["staging.raw_logins", "staging.unjudged_logins"])
def test_no_loader_waits_behind_a_migrate_that_waits_for_a_reader(
    database: Database, files: Path, monkeypatch: pytest.MonkeyPatch, relation: str
) -> None:
    """What migrate must lock: the table, where a policy was changed by hand, and a view that is no longer the same."""
    monkeypatch.setattr(loader.migrate, "PAUSE_SECONDS", 0.01)
    land(database, ["{}"])
    before = database.rows(STATE)
    if relation == "staging.raw_logins":
        with database.connect() as connection:
            connection.execute("alter policy transformer_reads on staging.raw_logins using (body <> '')")
    else:
        fields = files / "6_fields.sql"
        fields.write_text(fields.read_text().replace("'locale', 32", "'locale', 31"))
    ran: list[str] = []
    migrating = threading.Thread(target=lambda: ran.extend(apply(database, files)))

    with database.connect("transformer", autocommit=False) as reader:
        reader.execute(f"select count(*) from {relation}".encode())
        migrating.start()
        while not database.value(f"select count(*) from pg_locks where relation = '{relation}'::regclass and not granted"):
            pass
        monkeypatch.setenv("PGOPTIONS", "-c statement_timeout=5s")
        land(database, ["{}"])
        assert migrating.is_alive()
        with pytest.raises(MigrationError, match=r"^another transaction holds what migrate needs \(.*lock timeout\); end it or try later"):
            apply(database, files, patience_seconds=0)

    migrating.join()
    assert "7_privileges.sql" in ran
    assert database.rows(STATE) == before


def test_two_at_once_apply_each_table_once(own_server: Postgres) -> None:
    database = Database(own_server, "postgres", {})
    ran: list[list[str]] = []
    with database.connect(autocommit=False) as blocker:
        # both wait for this to end, so they do meet
        blocker.execute("create schema migrations")
        threads = [threading.Thread(target=lambda: ran.append(apply(database))) for _ in range(2)]
        for thread in threads:
            thread.start()
        while database.value("select count(*) from pg_locks where not granted") < len(threads):
            pass
        blocker.rollback()
    for thread in threads:
        thread.join()

    tables = [name for names in ran for name in names if name.startswith("4_tables")]
    assert len(ran) == 2
    assert sorted(tables) == sorted(f"4_tables/{path.name}" for path in (DATABASE_FILES / "4_tables").iterdir())


@pytest.mark.parametrize("change", list(BY_HAND))
def test_what_was_changed_by_hand_is_restored(database: Database, change: str) -> None:
    by_hand = BY_HAND[change]
    before = database.rows(STATE)
    with database.connect() as connection:
        connection.execute("create role another")
        try:
            connection.execute(by_hand.encode())
            assert database.rows(STATE) != before
            assert database.value(COLUMN_READ) is change.startswith("a grant")

            apply(database)

            assert database.rows(STATE) == before
            assert database.value(COLUMN_READ) is False
        finally:
            connection.execute("reset role; drop owned by another; drop role another")


def test_a_membership_that_only_another_administrator_can_take_back_is_named(own_server: Postgres) -> None:
    with own_server.connect() as connection:
        for name in ("administrator", "another"):
            connection.execute(sql.SQL("create role {} login createrole password {}").format(sql.Identifier(name), own_server.password))
        connection.execute("create role readers")
        connection.execute("grant readers to another with admin option")
        connection.execute("create database managed owner administrator")
    managed = managed_by("administrator", own_server)
    apply(managed)
    with own_server.connect() as connection:
        connection.execute("set role another; grant readers to analyst")

    with pytest.raises(MigrationError, match=r"another granted readers to analyst, .*; ask another to revoke it, then run migrate again"):
        apply(managed)


def managed_by(administrator: str, server: Postgres) -> Database:
    return Database(Postgres(server.directory, server.port, administrator, server.password), "managed", {"analyst": "not-a-secret-either"})


def test_an_administrator_who_is_no_superuser_can_apply_it(own_server: Postgres) -> None:
    """On a server whose provider has taken the schema public and large objects away."""
    with own_server.connect() as connection:
        connection.execute(sql.SQL("create role administrator login createrole createdb password {}").format(own_server.password))
        connection.execute("create database managed owner administrator")
    with own_server.connect("managed") as connection:
        connection.execute("drop schema public; revoke execute on function lo_creat(integer), lo_from_bytea(oid, bytea) from public")
    managed = managed_by("administrator", own_server)

    apply(managed, passwords=managed.passwords)
    again = apply(managed, passwords=managed.passwords)

    assert "7_privileges.sql" in again
    assert managed.value("select tableowner::text from pg_tables where tablename = 'raw_logins'") == "pipeline_owner"
    assert managed.value("select session_user::text", "analyst") == "analyst"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_is_not_utf8_is_refused(postgres_server: Postgres, encoding: str) -> None:
    with postgres_server.connect() as connection:
        connection.execute(f"create database other encoding '{encoding}' locale_provider libc locale 'C' template template0".encode())
        try:
            with pytest.raises(MigrationError, match=rf"^the database's encoding is {encoding}, and messages are UTF-8; make one with "):
                apply(Database(postgres_server, "other", {}))
        finally:
            connection.execute("drop database other")


@pytest.mark.parametrize(
    ("name", "statement", "refusal"),
    [
        (
            "5_functions/staging.broken.sql",
            "create function staging.broken() returns nonsense language sql return 1;",
            r'type "nonsense" does not exist',
        ),
        # not waited for: no other transaction is to blame
        ("6_fields.sql", "insert into masking.fields select * from masking.fields;", "SQLSTATE 23505"),
    ],
)
def test_a_broken_file_is_named_and_leaves_nothing_behind(database: Database, files: Path, name: str, statement: str, refusal: str) -> None:
    (files / "4_tables" / "90_good.sql").write_text("create table staging.good ();")
    with (files / name).open("a") as file:
        file.write(statement)

    with pytest.raises(MigrationError, match=rf"^database/{name} was refused: {refusal}; nothing was changed$"):
        apply(database, files)

    assert database.value("select to_regclass('staging.good')") is None


def test_a_table_file_changed_after_it_ran_is_refused(database: Database, files: Path) -> None:
    with (files / "4_tables" / "03_staging.raw_logins.sql").open("a") as file:
        file.write("-- changed\n")

    with pytest.raises(MigrationError, match=r"03_staging\.raw_logins\.sql was changed after it ran; put the change into a new file"):
        apply(database, files)


def test_a_password_leaves_only_as_a_verifier(database: Database, passwords: Mapping[str, str]) -> None:
    stored = database.value("select rolpassword from pg_authid where rolname = 'analyst'")

    assert stored.startswith("SCRAM-SHA-256$")
    assert passwords["analyst"] not in stored
    assert database.value("select session_user::text", "analyst") == "analyst"
