"""Batches into `staging.raw_logins` and `staging.unjudged`, one transaction each."""

import asyncio
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors as sqlstate

from loader.delivery import HEADER, TRAILER, Delivery
from loader.errors import LoaderError, TemporaryError, first_line, refused, wrong_setting
from loader.login import password_for, refusal
from loader.settings import LoaderSettings

SESSION, LAND = (Path(__file__).with_name(name).read_bytes() for name in ("session.sql", "land.sql"))
TIMEOUTS = "select set_config('statement_timeout', %(ms)s, false), set_config('idle_in_transaction_session_timeout', %(ms)s, false)"
# Binary, because an error in a text COPY quotes the row, in the server's log too. And COPY, because the parameters of an
# INSERT are written to that log by log_min_duration_statement.
COPY = "copy pg_temp.incoming (message_id, sent_at, body, attributes) from stdin (format binary)"
# A transaction that wrote nothing does not wait for a synchronous standby, and those that landed its messages before may have been
# cancelled while they waited.
WAIT_FOR_STANDBY = "select pg_logical_emit_message(true, 'user-logins', '')"
PARTITIONS = "select staging.ensure_partitions(%s::date[])"
EPOCH, DAY_MS = dt.date(1970, 1, 1), 86_400_000
# Classes of SQLSTATE that pass: connection, transaction state (25006: the old primary, during a failover), rollback, resources,
# prerequisite state, intervention of an operator, system, internal. The transaction is done again from its start.
PASSING = ("08", "25", "40", "53", "55", "57", "58", "XX")
# Without a SQLSTATE it is psycopg that gives up: on the connection, or (InternalError) on what came over it. Or AWS gives no credentials.
PASSING_ERRORS = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError, OSError, LoaderError, TemporaryError)
NOT_MIGRATED = (sqlstate.UndefinedTable, sqlstate.UndefinedColumn, sqlstate.UndefinedFunction, sqlstate.InvalidSchemaName)


@dataclass
class Landing:
    """The connection that batches land over: opened at need, and opened again whenever it breaks."""

    settings: LoaderSettings
    is_durable: bool = True  # the server writes what is committed to its disk, and whole pages
    _connection: Any = None  # psycopg's
    _warnings: list[psycopg.errors.Diagnostic] = field(default_factory=list)

    async def open(self) -> None:
        """Connect, and prove that we may land; a LoaderError says why not."""
        try:
            await self._connect()
        except (psycopg.Error, OSError) as error:
            self._end_if_fatal(error)
            raise refusal(error, "LOADER_PASSWORD", "PGUSER") from None

    async def land(self, batch: Sequence[Delivery]) -> int:
        """Commit *batch*, and return how many of its rows are new; the others had landed before. An empty one only proves that it could.

        A TemporaryError says that nothing was committed, or that it may not be durable, so that the same batch is to be landed again.
        """
        # Sorted by the key that each row begins with: two loaders with the same messages wait for each other, never in a circle.
        rows = sorted(row for delivery in batch for row in delivery.rows)
        try:
            if self._connection is None or self._connection.closed:
                await self._connect()
            for _ in range(3):
                # Cancelled by this, psycopg asks the server to cancel, and gives the connection up after some seconds.
                async with asyncio.timeout(self.settings.loader_timeout_seconds):
                    try:
                        return await self._insert(rows)
                    except sqlstate.CheckViolation:
                        # A day without a partition, for nothing came of it before, or retention has dropped it. In a transaction of its
                        # own, so that its locks are short.
                        days = {EPOCH + dt.timedelta(days=sent_ms // DAY_MS) for delivery in batch for sent_ms in delivery.sent_ms}
                        await self._connection.execute(PARTITIONS, [sorted(days)])
        except (psycopg.Error, *PASSING_ERRORS) as error:
            self._end_if_fatal(error)
            await self.close()
            raise TemporaryError(self._reason(error)) from None
        raise wrong_setting("staging.raw_logins takes no row of this day; run python -m loader migrate")

    async def close(self) -> None:
        """Close the connection; what was not committed is rolled back."""
        if self._connection:
            await self._connection.close()

    async def _connect(self) -> None:
        settings, silence = self.settings, int(self.settings.loader_timeout_seconds)
        async with asyncio.timeout(silence):  # AWS credentials may have to be fetched
            password = await asyncio.to_thread(password_for, settings.pguser, settings.pgpassword or settings.loader_password)
        chosen: dict[str, Any] = {"user": settings.pguser, "password": password, "connect_timeout": silence, "autocommit": True}
        connect = psycopg.AsyncConnection.connect
        connection = self._connection = await connect(**chosen, client_encoding="UTF8", application_name="user-logins loader")
        connection.add_notice_handler(self._warnings.append)  # nothing less than a warning comes: see session.sql
        async with asyncio.timeout(silence):
            await connection.execute(TIMEOUTS, {"ms": str(silence * 1000)})
            (self.is_durable, *_), *_ = await (await connection.execute(SESSION)).fetchall()
            await self._insert([])  # is refused now if it would be refused later

    async def _insert(self, rows: Sequence[bytes]) -> int:
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            if rows:
                async with cursor.copy(COPY) as copy:
                    await copy.write(b"".join((HEADER, *rows, TRAILER)))
            await cursor.execute(LAND)
            landed: int = cursor.rowcount
            if rows and not landed:
                await cursor.execute(WAIT_FOR_STANDBY)
            self._warnings.clear()
        if self._warnings:
            # Someone cancelled the wait for a synchronous standby: committed here, and perhaps nowhere else.
            code = self._warnings[0].sqlstate
            raise TemporaryError(f"PostgreSQL committed with a warning (SQLSTATE {code}), so perhaps not on its standby")
        return landed

    def _end_if_fatal(self, error: Exception) -> None:
        """Raise what to stop with where trying again cannot help: by SQLSTATE, and without one by the kind of error."""
        found, code = self._reason(error), getattr(error, "sqlstate", None)
        if isinstance(error, NOT_MIGRATED):
            raise wrong_setting(f"staging.raw_logins is not as this loader needs it ({found}); run python -m loader migrate")
        if isinstance(error, sqlstate.InsufficientPrivilege):
            raise refused(f"PostgreSQL refuses role {self.settings.pguser} ({found}); run python -m loader migrate")
        if not (code.startswith(PASSING) if code else isinstance(error, PASSING_ERRORS)):
            raise LoaderError(f"PostgreSQL cannot land a batch: {found}")

    def _reason(self, error: BaseException) -> str:
        """Why, in one line. The server's words are only taken where they cannot quote a row."""
        if isinstance(error, TimeoutError):
            return f"PostgreSQL at {self.settings.pghost} did not answer in time"
        if isinstance(error, psycopg.Error) and error.sqlstate:
            quotes_rows = error.sqlstate.startswith(("22", "23"))
            return f"SQLSTATE {error.sqlstate}" + ("" if quotes_rows else f": {error.diag.message_primary}")
        return first_line(error)
