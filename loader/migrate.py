"""Apply `database/`: the roles, tables, functions and privileges that must exist before dbt."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors as sqlstate
from psycopg import sql

from loader.errors import LoaderError, first_line, unavailable

Connection = psycopg.Connection[Any]

OWNER = "pipeline_owner"
TABLES = "4_tables"
PRIVILEGES = "7_privileges.sql"
PAUSE_SECONDS, PATIENCE_SECONDS = 2.0, 600.0
# Another transaction has what we need, or a second migrate makes the same things at the same time.
PASSING = (sqlstate.LockNotAvailable, sqlstate.DeadlockDetected, sqlstate.UniqueViolation, sqlstate.InternalError_)
CATALOG = ("pg_catalog", None)  # a unique violation elsewhere is a mistake in a file
FORESEEN_MESSAGES = 10_000
RECORDED = "select sha256 from migrations.applied where file = %s"
WHAT_PRIVILEGES_SET = "select digest from pg_temp.privileges"
RECORD = """
    insert into migrations.applied (file, sha256) values (%s, %s)
    on conflict (file) do update set sha256 = excluded.sha256, applied_at = now()
"""


def migrate(connection: Connection, directory: Path, passwords: Mapping[str, str], patience_seconds: float = PATIENCE_SECONDS) -> list[str]:
    """Bring the database up to *directory*, in one transaction, and return the names of the files that ran, or raise a LoaderError.

    Files run in the order of their path. A file in `4_tables` runs once and is never changed afterwards: add a new one. Every other
    file can be run again, and is, so that a grant made by hand does not stay. Files in a folder run as the owner that nobody can log in
    as. A lock that cannot be had at once is tried again for *patience_seconds*; loaders never queue behind it for longer than half a
    second. *passwords* maps a login role to its password, which leaves this process only as a SCRAM verifier (RFC 5802).
    """
    if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
        advice = "make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        raise LoaderError(f"the database's encoding is {encoding}, and messages are UTF-8; {advice}")
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            with connection.transaction():
                ran = _apply_all(connection, directory)
                for role, password in passwords.items():
                    connection.pgconn.change_password(role.encode(), password.encode())  # which sends a SCRAM verifier
                return ran
        except PASSING as error:
            if time.monotonic() > deadline:
                found = f"another transaction holds what migrate needs ({error.diag.message_primary})"
                raise LoaderError(f"{found}; end it or try later; nothing was changed") from None
            time.sleep(PAUSE_SECONDS)
        except psycopg.OperationalError as error:
            raise unavailable(f"{first_line(error)}; run it again, it changes all or nothing") from None


def let_in_by_iam(connection: Connection, roles: Sequence[str]) -> None:
    """On RDS, let *roles* log in with an IAM credential, and from then on with no password; elsewhere do nothing."""
    if roles and connection.execute("select 1 from pg_roles where rolname = 'rds_iam'").fetchone():
        connection.execute(sql.SQL("grant rds_iam to {}").format(sql.SQL(", ").join(map(sql.Identifier, roles))))


def foresee(connection: Connection, directory: Path) -> list[tuple[str, int, int]]:
    """What *directory* would do, without doing it: a place, how many of its newest messages were judged, how many would be masked.

    Places are waiting, rejected and masked. Readers of the marts wait for it if a column is new, some tenths of a second.
    """
    with connection.transaction(force_rollback=True):
        _apply_all(connection, directory)
        connection.execute(sql.SQL("set local role {}").format(sql.Identifier(OWNER)))
        return connection.execute("select * from staging.foresee(%s)", [FORESEEN_MESSAGES]).fetchall()


def _apply_all(connection: Connection, directory: Path) -> list[str]:
    names = sorted(str(path.relative_to(directory)) for path in directory.rglob("*.sql"))
    return [name for name in names if _apply(connection, directory, name)]


def _apply(connection: Connection, directory: Path, name: str) -> bool:
    """Whether the file *name* ran: a table's does once."""
    statements = (directory / name).read_bytes()
    digest = hashlib.sha256(statements).hexdigest()
    if name.startswith(TABLES) and (found := connection.execute(RECORDED, [name]).fetchone()):
        if found != (digest,):
            raise LoaderError(f"database/{name} was changed after it ran; put the change into a new file in database/{TABLES}")
        return False
    connection.execute(sql.SQL("set local role {}").format(sql.Identifier(OWNER) if "/" in name else sql.SQL("none")))
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
        reason = f"SQLSTATE {error.sqlstate}{rule}" if quotes_values else error.diag.message_primary or first_line(error)
        if isinstance(error, sqlstate.DependentObjectsStillExist) and error.diag.message_detail:
            reason = f"{reason} ({error.diag.message_detail})"
        raise LoaderError(f"database/{name} was refused: {reason}; nothing was changed") from error
    connection.execute("set local role none")
    connection.execute(RECORD, (name, digest))
    return True
