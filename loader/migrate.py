"""Apply `database/`: the roles, tables, functions and privileges that must exist before dbt."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors as sqlstate
from psycopg import sql

from loader.errors import LoaderError

Connection = psycopg.Connection[Any]

OWNER = "pipeline_owner"
TABLES = "4_tables"
PRIVILEGES = "7_privileges.sql"
PAUSE_SECONDS, PATIENCE_SECONDS = 2.0, 600.0
# Another transaction has what we need, or a second migrate makes the same things at the same time.
PASSING = (sqlstate.LockNotAvailable, sqlstate.DeadlockDetected, sqlstate.UniqueViolation, sqlstate.InternalError_)
CATALOG = ("pg_catalog", None)  # a unique violation elsewhere is a mistake in a file
# A statement that waits for a lock makes everyone behind it wait, loaders included. So wait briefly, let them pass, try again.
BEGIN = """
    set local client_min_messages = error;
    set local lock_timeout = '500ms';
    {quiet};
    create schema if not exists migrations;
    create table if not exists migrations.applied (
        file text primary key, sha256 text not null, applied_at timestamptz not null default now()
    );
    lock table migrations.applied in share row exclusive mode
"""
# An error of a file may quote a value of the data, and a password's verifier is in its statement. Only a superuser can keep both
# out of the server's log from here.
QUIET = """
    select set_config(name, value, true)
    from (values ('log_min_messages', 'fatal'), ('log_statement', 'none'), ('log_min_duration_statement', '-1')) as quiet (name, value)
    where (select rolsuper from pg_roles where rolname = current_user)
"""
# All that the file of privileges sets, in one value: who may do what, row security, and the settings of roles and of the database.
WHAT_PRIVILEGES_SET = """
    with acls (owned, acl) as (
        select 'schema ' || oid, nspacl from pg_namespace
        union all select 'relation ' || oid || relrowsecurity::text, relacl from pg_class where relnamespace >= 16384
        union all select 'column ' || attrelid || ' ' || attnum, attacl from pg_attribute where attacl is not null
        union all select 'function ' || oid, proacl from pg_proc where pronamespace >= 16384 or proname like 'lo\\_%'
        union all select 'database ' || oid, datacl from pg_database where datname = current_database()
    )
    select md5(string_agg(line, ' ' order by line)) from (
        select owned || ': ' || array(select item::text from unnest(acl) as item order by 1)::text from acls
        union all select pg_policies::text from pg_policies
        union all select pg_db_role_setting::text from pg_db_role_setting
    ) as lines (line)
"""
# What today's rules would say of the newest messages in each place.
FORESEEN = """
    with

    places as (
        (select 1 as number, 'waiting' as place, message_id, sent_at from staging.unjudged order by sent_at desc limit {limit})
        union all
        (select 2, 'rejected', message_id, sent_at from marts.rejected_logins order by sent_at desc limit {limit})
        union all
        (select 3, 'masked', message_id, sent_at from marts.user_logins order by sent_at desc limit {limit})
    )

    select places.place, count(*), count(*) filter (where logins.reasons is null)
    from places
    inner join staging.logins using (message_id, sent_at)
    group by places.number, places.place
    order by places.number
"""
FORESEEN_MESSAGES = 10_000
APPLIED = """
    insert into migrations.applied (file, sha256) values (%s, %s)
    on conflict (file) do update set sha256 = excluded.sha256, applied_at = now()
"""


class MigrationError(LoaderError):
    """A file could not be applied; the message names the file and what to do."""


def migrate(connection: Connection, directory: Path, passwords: Mapping[str, str], patience_seconds: float = PATIENCE_SECONDS) -> list[str]:
    """Bring the database up to *directory*, in one transaction, and return the names of the files that ran, or raise a MigrationError.

    Files run in the order of their path. A file in `4_tables` runs once and is never changed afterwards: add a new one. Every other
    file can be run again, and is, so that a grant made by hand does not stay. Files in a folder run as the owner that nobody can log in
    as. A lock that cannot be had at once is tried again for *patience_seconds*; loaders never queue behind it for longer than half a
    second. *passwords* maps a login role to its password, which leaves this process only as a SCRAM verifier (RFC 5802).
    """
    if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
        advice = "make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        raise MigrationError(f"the database's encoding is {encoding}, and messages are UTF-8; {advice}")
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            with connection.transaction():
                return _migrate(connection, directory, passwords)
        except PASSING as error:
            if time.monotonic() > deadline:
                found = f"another transaction holds what migrate needs ({error.diag.message_primary})"
                raise MigrationError(f"{found}; end it or try later; nothing was changed") from None
            time.sleep(PAUSE_SECONDS)


def foresee(connection: Connection, directory: Path) -> list[tuple[str, int, int]]:
    """What *directory* would do, without doing it: a place, how many of its newest messages were judged, how many would pass.

    Places are waiting, rejected and masked. Readers of the marts wait for it if a column is new, some tenths of a second.
    """
    with connection.transaction(force_rollback=True):
        _migrate(connection, directory, {})
        connection.execute("set local role pipeline_owner")
        return connection.execute(FORESEEN.format(limit=FORESEEN_MESSAGES).encode()).fetchall()


def let_in_by_iam(connection: Connection, roles: Sequence[str]) -> None:
    """On RDS, let *roles* log in with an IAM credential, and from then on with no password; elsewhere do nothing."""
    if roles and connection.execute("select 1 from pg_roles where rolname = 'rds_iam'").fetchone():
        connection.execute(sql.SQL("grant rds_iam to {}").format(sql.SQL(", ").join(map(sql.Identifier, roles))))


def _migrate(connection: Connection, directory: Path, passwords: Mapping[str, str]) -> list[str]:
    connection.execute(BEGIN.format(quiet=QUIET).encode())
    applied, ran = dict(connection.execute("select file, sha256 from migrations.applied").fetchall()), []
    for name in sorted(str(path.relative_to(directory)) for path in directory.rglob("*.sql")):
        statements = (directory / name).read_bytes()
        digest = hashlib.sha256(statements).hexdigest()
        if name in applied and name.startswith(TABLES):
            if applied[name] != digest:
                raise MigrationError(f"database/{name} was changed after it ran; put the change into a new file in database/{TABLES}")
            continue
        _apply(connection, name, statements)
        connection.execute(APPLIED, (name, digest))
        ran.append(name)
    for role, password in passwords.items():
        verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
        connection.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(verifier)))
    return ran


def _apply(connection: Connection, name: str, statements: bytes) -> None:
    role = sql.Identifier(OWNER) if "/" in name else sql.SQL("none")
    connection.execute(sql.SQL("set local role {}").format(role))
    try:
        with connection.transaction() as attempt:
            before = connection.execute(WHAT_PRIVILEGES_SET).fetchone() if name == PRIVILEGES else None
            connection.execute(statements)
            if before and connection.execute(WHAT_PRIVILEGES_SET).fetchone() == before:
                # it revoked and granted what was there already: leave the catalog's rows as they are
                raise psycopg.Rollback(attempt)
    except psycopg.Error as error:
        if isinstance(error, PASSING) and error.diag.schema_name in CATALOG:
            raise
        quotes_values = (error.sqlstate or "").startswith(("22", "23"))
        rule = f", constraint {error.diag.constraint_name}" if error.diag.constraint_name else ""
        reason = f"SQLSTATE {error.sqlstate}{rule}" if quotes_values else error.diag.message_primary or error
        if isinstance(error, sqlstate.DependentObjectsStillExist) and error.diag.message_detail:
            reason = f"{reason} ({error.diag.message_detail})"
        raise MigrationError(f"database/{name} was refused: {reason}; nothing was changed") from error
    connection.execute("set local role none")
