"""`database/` is applied once, again without harm, whole or not at all, and by an administrator who is no superuser."""

import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest

import loader.migrate
from loader.errors import LoaderError
from loader.migrate import let_in_by_iam, migrate
from sandbox import postgres
from sandbox.postgres import Postgres
from sandbox.processes import wait_until
from tests.managed import Managed, is_turned_away
from tests.managed import managed as managed_server
from tests.support import DATABASE_FILES, ROOT, Database, land

# what two migrates must agree on, beside all privileges: keys and the audit's trigger
PRIVILEGES = (ROOT / "tests" / "access" / "privileges.sql").read_text()
STATE = """
    select domain, version::text, encode(inner_block || outer_block, 'hex') from masking.keys
    union all select tgname, tgenabled::text, null from pg_trigger where tgrelid = 'recovery.audit'::regclass
    order by 1, 2
"""
VERSIONS = """
    select oid, xmin::text from pg_class
    where relnamespace::regnamespace::text in ('staging', 'masking', 'marts', 'recovery') order by oid
"""
# what the transaction of a migrate has locked; a lock as light as CREATE FUNCTION's stops nobody
LOCKS = """
    create table public.locks as select relation::regclass::text, mode from pg_locks
    where pid = pg_backend_pid() and locktype = 'relation' and granted and relation::regclass::text ~ '^(staging|marts|recovery|masking)'
    and mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""
BY_HAND = [
    "drop policy loader_lands on staging.raw_logins",
    "drop policy transformer_reads on staging.raw_logins",
    "create policy transformer_reads on staging.raw_logins as restrictive for select to transformer using (true)",
    "alter table staging.raw_logins disable row level security",
    "alter table masking.keys disable row level security",
    "alter table recovery.audit disable trigger refuse_change",
    "grant select on staging.raw_logins, masking.keys to public",
    "grant usage on schema staging to another with grant option",
    "grant select (body) on staging.raw_logins to another with grant option",
    # and what somebody passed on who could
    "set role another; grant usage on schema staging to pii_approver; reset role",
    "set role another; grant select (body) on staging.raw_logins to pii_approver; reset role",
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A copy of `database/` to break."""
    return Path(shutil.copytree(DATABASE_FILES, tmp_path / "database"))


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Postgres]:
    """A server on which none of the roles exists yet."""
    with postgres.throwaway(tmp_path, "not-a-secret") as server:
        yield server


@pytest.fixture
def provided(tmp_path: Path) -> Iterator[Managed]:
    """A provider's server on which none of the roles exists yet."""
    with managed_server(tmp_path, "not-a-secret") as server:
        yield server


def apply(
    database: Database, directory: Path = DATABASE_FILES, passwords: Mapping[str, str] | None = None, patience_seconds: float = 60
) -> list[str]:
    with database.administer() as connection:
        return migrate(connection, directory, passwords or {}, patience_seconds)


def state(database: Database) -> list[tuple[str, ...]]:
    return database.rows(PRIVILEGES) + database.rows(STATE)


def test_applying_again_changes_nothing_and_stops_nobody(database: Database, files: Path) -> None:
    """Not even a grant that is there already is written again."""
    land(database, ["{}"])
    apply(database)
    before, versions = state(database), database.rows(VERSIONS)
    (files / "9_locks.sql").write_text(LOCKS)
    ran = apply(database, files)
    assert "7_privileges.sql" in ran
    assert not [name for name in ran if name.startswith("4_tables")]
    assert database.rows("select * from public.locks") == []
    with database.connect() as connection:
        connection.execute("drop table public.locks")
    assert state(database) == before
    assert database.rows(VERSIONS) == versions


def test_what_was_changed_by_hand_is_restored(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("create role another")
        try:
            seen = [before := state(database)]
            for change in BY_HAND:
                connection.execute(change.encode())
                seen.append(state(database))
                assert seen[-1] != seen[-2], change
            apply(database)
            assert state(database) == before
        finally:
            connection.execute("reset role; drop owned by another; drop role another")


def test_no_loader_waits_behind_a_migrate_that_waits_for_a_reader(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a table that it must lock, where a policy was changed by hand."""
    monkeypatch.setattr(loader.migrate, "PAUSE_SECONDS", 0.01)
    land(database, ["{}"])
    before = state(database)
    with database.connect() as connection:
        connection.execute("alter policy transformer_reads on staging.raw_logins using (body <> '')")
    ran: list[str] = []
    migrating = threading.Thread(target=lambda: ran.extend(apply(database)))
    with database.connect("transformer", autocommit=False) as reader:
        reader.execute("select count(*) from staging.raw_logins")
        migrating.start()
        waiting = "select count(*) from pg_locks where relation = 'staging.raw_logins'::regclass and not granted"
        assert wait_until(lambda: database.value(waiting) > 0, 30)
        monkeypatch.setenv("PGOPTIONS", "-c statement_timeout=5s")
        land(database, ["{}"])
        assert migrating.is_alive()
        with pytest.raises(LoaderError, match=r"^another transaction holds what migrate needs \(.*lock timeout\); end it or try later"):
            apply(database, patience_seconds=0)
    migrating.join()
    assert "7_privileges.sql" in ran
    assert state(database) == before


def test_two_at_once_apply_each_table_once(own_server: Postgres) -> None:
    database, ran = Database(own_server, "postgres", {}), list[list[str]]()
    threads = [threading.Thread(target=lambda: ran.append(apply(database))) for _ in range(2)]
    with database.connect(autocommit=False) as blocker:
        # both wait for this to end, so they do meet
        blocker.execute("create schema migrations")
        for thread in threads:
            thread.start()
        assert wait_until(lambda: database.value("select count(*) from pg_locks where not granted") == 2, 30)
        blocker.rollback()
    for thread in threads:
        thread.join()
    tables = [name for names in ran for name in names if name.startswith("4_tables")]
    assert len(ran) == 2
    assert sorted(tables) == sorted(f"4_tables/{path.name}" for path in (DATABASE_FILES / "4_tables").iterdir())


def test_an_administrator_who_is_no_superuser_can_apply_it(provided: Managed) -> None:
    """Where there is no schema public, and every statement is logged."""
    managed = Database(provided, "managed", {"analyst": "made-up"})
    with provided.administrator.connect() as administrator:
        administrator.execute("create database managed")
    with provided.second_administrator.connect() as second:
        second.execute("create role readers")
    with managed.connect() as provider:
        provider.execute("drop schema public")
        provider.execute("alter system set log_statement = 'all'")
        provider.execute("select pg_reload_conf()")
    for _ in range(2):
        assert "7_privileges.sql" in apply(managed, passwords=managed.passwords)
    assert managed.value("select tableowner::text from pg_tables where tablename = 'raw_logins'") == "pipeline_owner"
    assert managed.value("select session_user::text", "analyst") == "analyst"
    # a password leaves the process only as a verifier
    assert 'ALTER USER "analyst" PASSWORD \'SCRAM-SHA-256$' in provided.log.read_text()
    assert "made-up" not in provided.log.read_text()
    # a membership that only another administrator can take back is named
    with provided.second_administrator.connect() as second:
        second.execute("grant readers to analyst")
    said = r"second_administrator granted readers to analyst, .*; ask second_administrator to revoke it, then run migrate again"
    with pytest.raises(LoaderError, match=said):
        apply(managed)


def test_an_administrator_who_did_not_create_the_roles_is_told_so_and_changes_nothing(provided: Managed) -> None:
    """Neither in our database, to which they cannot connect, nor in one of theirs."""
    with provided.administrator.connect() as administrator, provided.second_administrator.connect() as second:
        administrator.execute("create database ours")
        second.execute("create database theirs")
    with provided.administrator.connect("ours") as administrator:
        migrate(administrator, DATABASE_FILES, {})
    before = state(Database(provided, "ours", {}))
    with pytest.raises(psycopg.OperationalError, match='permission denied for database "ours"'):
        provided.second_administrator.connect("ours")
    with provided.second_administrator.connect("theirs") as second, pytest.raises(LoaderError) as caught:
        migrate(second, DATABASE_FILES, {})
    assert str(caught.value) == 'database/1_roles.sql was refused: permission denied to grant role "pipeline_owner"; nothing was changed'
    assert state(Database(provided, "ours", {})) == before


def test_whoever_created_a_user_is_in_rds_iam_with_it_even_without_inherit_and_set(provided: Managed) -> None:
    with provided.administrator.connect() as administrator, provided.connect() as provider:
        administrator.execute("create role loader login")
        options = provider.execute("select admin_option, inherit_option, set_option from pg_auth_members where roleid = 'loader'::regrole")
        assert options.fetchall() == [(True, False, False)]
        assert not is_turned_away(provided, "administrator")
        let_in_by_iam(provider, ["loader"])
        assert [user for user in ("loader", "administrator", "second_administrator") if is_turned_away(provided, user)] == [
            "loader",
            "administrator",
        ]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_is_not_utf8_is_refused(postgres_server: Postgres, encoding: str) -> None:
    with postgres_server.connect() as connection:
        connection.execute(f"create database other encoding '{encoding}' locale_provider libc locale 'C' template template0".encode())
        try:
            with pytest.raises(LoaderError, match=rf"^the database's encoding is {encoding}, and messages are UTF-8; make one with "):
                apply(Database(postgres_server, "other", {}))
        finally:
            connection.execute("drop database other")


BROKEN = "create function staging.broken() returns nonsense language sql return 1;"
# not waited for: no other transaction is to blame
VIOLATION = "insert into masking.fields (column_name, path, on_personal, reason) values ('locale', 'other', 'allow', 'none');"


@pytest.mark.parametrize(
    ("name", "addition", "said"),
    [
        ("5_functions/staging.broken.sql", BROKEN, ' was refused: type "nonsense" does not exist; nothing was changed'),
        ("6_fields.sql", VIOLATION, " was refused: SQLSTATE 23505, constraint fields_column_name_key; nothing was changed"),
        ("4_tables/03_staging.raw_logins.sql", "--", " was changed after it ran; put the change into a new file in database/4_tables"),
    ],
)
def test_a_file_that_is_refused_is_named_and_nothing_is_left_behind(
    database: Database, files: Path, name: str, addition: str, said: str
) -> None:
    (files / "4_tables" / "01_good.sql").write_text("create table staging.good ();")
    with (files / name).open("a") as file:
        file.write(addition)
    with pytest.raises(LoaderError) as caught:
        apply(database, files)
    assert str(caught.value) == f"database/{name}{said}"
    assert database.value("select to_regclass('staging.good')") is None
