"""`database/` is applied once, again without harm, whole or not at all, and by an administrator who is no superuser."""

import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from loader.migrate import MigrationError, migrate
from sandbox import postgres
from sandbox.postgres import Postgres
from tests.support import DATABASE_FILES, Database

SCHEMA = """
select n.nspname, c.relname, c.relkind::text, c.relacl::text, c.relowner::regrole::text
from pg_class as c inner join pg_namespace as n on c.relnamespace = n.oid
where n.nspname in ('staging', 'masking', 'recovery', 'marts', 'analytics')
union all
select n.nspname, p.oid::regprocedure::text, 'function', p.proacl::text, p.proowner::regrole::text
from pg_proc as p inner join pg_namespace as n on p.pronamespace = n.oid
where n.nspname in ('staging', 'masking', 'recovery', 'marts', 'analytics')
order by 1, 2
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A copy of `database/` to break."""
    return Path(shutil.copytree(DATABASE_FILES, tmp_path / "database"))


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Postgres]:
    """A server on which none of the roles exists yet."""
    with postgres.throwaway(tmp_path, "not-a-secret") as server:
        yield server


def apply(database: Database, directory: Path, passwords: Mapping[str, str] | None = None) -> list[str]:
    with database.connect() as connection:
        return migrate(connection, directory, passwords or {})


def test_applying_twice_changes_nothing_and_keeps_the_keys(database: Database) -> None:
    before, keys = database.rows(SCHEMA), database.rows("select * from masking.keys order by 1, 2")
    assert keys

    ran = apply(database, DATABASE_FILES)

    assert not [name for name in ran if name.startswith("3_tables")]
    assert database.rows(SCHEMA) == before
    assert database.rows("select * from masking.keys order by 1, 2") == keys


def test_two_at_once_apply_each_table_once(empty_database: Database) -> None:
    ran: list[list[str]] = []
    with empty_database.connect() as blocker:
        # both wait for the same lock, so they do meet
        blocker.execute("select pg_advisory_lock(hashtextextended('user-logins migrate', 0))")
        threads = [threading.Thread(target=lambda: ran.append(apply(empty_database, DATABASE_FILES))) for _ in range(2)]
        for thread in threads:
            thread.start()
        waiting = """
            select count(*) from pg_locks
            where locktype = 'advisory' and not granted
                and database = (select oid from pg_database where datname = current_database())
        """
        while empty_database.value(waiting) < len(threads):
            pass
        blocker.execute("select pg_advisory_unlock_all()")
        for thread in threads:
            thread.join()

    tables = [name for names in ran for name in names if name.startswith("3_tables")]
    assert len(ran) == 2
    assert sorted(tables) == sorted(f"3_tables/{path.name}" for path in (DATABASE_FILES / "3_tables").iterdir())


def test_a_grant_made_by_hand_is_taken_back(database: Database) -> None:
    database_grant = "grant select on staging.raw_logins to analyst; grant usage on schema staging to analyst"
    with database.connect() as connection:
        connection.execute(database_grant)
    assert database.rows("select count(*) from staging.raw_logins", "analyst") == [(0,)]

    apply(database, DATABASE_FILES)

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.rows("select count(*) from staging.raw_logins", "analyst")


def test_a_broken_file_is_named_and_leaves_nothing_behind(database: Database, files: Path) -> None:
    (files / "3_tables" / "900_good.sql").write_text("create table staging.good ();")
    (files / "4_functions" / "staging.broken.sql").write_text("create function staging.broken() returns nonsense;")

    with pytest.raises(MigrationError, match=r"^database/4_functions/staging\.broken\.sql was refused: .*; nothing was changed$"):
        apply(database, files)

    assert database.value("select to_regclass('staging.good')") is None


def test_a_table_file_changed_after_it_ran_is_refused(database: Database, files: Path) -> None:
    changed = files / "3_tables" / "001_staging.raw_logins.sql"
    changed.write_text(changed.read_text() + "\n-- changed\n")

    with pytest.raises(MigrationError, match=r"001_staging\.raw_logins\.sql was changed after it ran; put the change into a new file"):
        apply(database, files)


def test_a_password_leaves_only_as_a_verifier(database: Database, passwords: Mapping[str, str]) -> None:
    stored = database.value("select rolpassword from pg_authid where rolname = 'analyst'")

    assert stored.startswith("SCRAM-SHA-256$")
    assert passwords["analyst"] not in stored
    assert database.value("select session_user::text", "analyst") == "analyst"


def test_an_administrator_who_is_no_superuser_can_apply_it(own_server: Postgres) -> None:
    with own_server.connect() as connection:
        connection.execute(sql.SQL("create role administrator login createrole createdb password {}").format(own_server.password))
        connection.execute("create database managed owner administrator")
    administrator = Postgres(own_server.directory, own_server.port, "administrator", own_server.password)
    managed = Database(administrator, "managed", {"analyst": "not-a-secret-either"})

    apply(managed, DATABASE_FILES, managed.passwords)
    again = apply(managed, DATABASE_FILES, managed.passwords)

    assert "6_privileges.sql" in again
    assert managed.value("select tableowner::text from pg_tables where tablename = 'raw_logins'") == "pipeline_owner"
    assert managed.value("select session_user::text", "analyst") == "analyst"
