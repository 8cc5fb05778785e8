"""A connection as one of the roles that act on personal data, and what can go wrong with it, said in one line."""

import os
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import errors

from loader.errors import LoaderError
from loader.login import password_for, refusal

CONNECT_SECONDS = 10
# How long an act that cannot get a lock stands in the way of the loader and dbt, how long it then leaves them alone, and for
# how long it tries.
LOCK_TIMEOUT_MILLISECONDS = 500
PAUSE_SECONDS = 2.0
PATIENCE_SECONDS = 600.0

Rows = list[tuple[Any, ...]]


class RecoveryError(Exception):
    """What failed, what was found and what to do, in one line without personal values; *exit_code* is one of `os.EX_*`."""

    def __init__(self, message: str, exit_code: int) -> None:
        """Keep *exit_code* for the command line to exit with."""
        super().__init__(message)
        self.exit_code = exit_code


def connect(role: str) -> psycopg.Connection[Any]:
    """Connect as a person: as PGUSER with PGPASSWORD where they are set, else as *role* with its own password variable.

    Every statement is a transaction of its own (autocommit), and waits for a lock for half a second at most.

    Raises:
        RecoveryError: the server is down, or refuses the credentials.
    """
    variable = f"{role.upper()}_PASSWORD"
    user = os.environ.get("PGUSER") or role
    try:
        connection = psycopg.connect(
            user=user,
            password=password_for(user, os.environ.get("PGPASSWORD") or os.environ.get(variable) or None),
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            application_name="user-logins recovery",
        )
        # not among the connection's options, which a pool such as pgbouncer refuses, or leaves out
        connection.execute(f"set lock_timeout = {LOCK_TIMEOUT_MILLISECONDS}".encode())
        connection.execute("set default_transaction_isolation = 'read committed'")
    except LoaderError as error:
        raise RecoveryError(str(error), error.exit_code) from None
    except psycopg.OperationalError as error:
        failure = refusal(error, variable, "PGUSER")
        raise RecoveryError(str(failure), failure.exit_code) from None
    return connection


def call(connection: psycopg.Connection[Any], statement: str, parameters: Sequence[Any] = ()) -> Rows:
    """Run *statement* in a transaction of its own and return its rows.

    Where a lock cannot be had it leaves the others alone for a moment and tries again, for ten minutes; nothing was changed by an attempt
    that failed.

    Raises:
        RecoveryError: the server refuses the act, or the lock could not be had.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            return connection.execute(statement.encode(), parameters).fetchall()
        except (errors.LockNotAvailable, errors.DeadlockDetected, errors.ObjectInUse):
            time.sleep(PAUSE_SECONDS)
        except psycopg.Error as error:
            raise _explain(error) from None
    raise RecoveryError("another transaction holds what this act needs, such as a dbt run; run it again later", os.EX_TEMPFAIL)


def _explain(error: psycopg.Error) -> RecoveryError:
    said = error.diag.message_primary or type(error).__name__
    for kinds, message, exit_code in (
        (errors.InsufficientPrivilege, said, os.EX_NOPERM),
        (errors.InvalidParameterValue, said, os.EX_DATAERR),
        (errors.InvalidTextRepresentation, "a reveal's id is a UUID, as the command request printed it", os.EX_DATAERR),
        (
            (errors.InvalidSchemaName, errors.UndefinedFunction, errors.UndefinedTable),
            f"{said}; run python -m loader migrate",
            os.EX_UNAVAILABLE,
        ),
        # a detached partition, which is an OperationalError to psycopg
        (errors.ObjectNotInPrerequisiteState, f"{said}; {error.diag.message_hint}; nothing was changed", os.EX_SOFTWARE),
        (errors.QueryCanceled, "the act took longer than statement_timeout allows; nothing was changed", os.EX_TEMPFAIL),
        (psycopg.OperationalError, "the server ended the connection; run the command again, it goes on where it was", os.EX_TEMPFAIL),
    ):
        if isinstance(error, kinds):
            return RecoveryError(message, exit_code)
    if error.diag.message_hint:  # said by our own functions
        return RecoveryError(f"{said}; {error.diag.message_hint}; nothing was changed", os.EX_SOFTWARE)
    # the server's own words might quote a value
    return RecoveryError(f"the server refused (SQLSTATE {error.sqlstate}); nothing was changed", os.EX_SOFTWARE)
