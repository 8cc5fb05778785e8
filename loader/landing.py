"""Batches into `staging.raw_logins`: one transaction each, as often as it takes."""

import asyncio
import datetime as dt
import os
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import errors as sqlstate

from loader.errors import LoaderError, refused, unavailable, wrong_setting
from loader.login import NoCredentialsNowError, not_verified, password_for, refused_login
from loader.settings import LoaderSettings
from loader.sqs import Message, backoff_seconds

Connection = psycopg.AsyncConnection[tuple[object, ...]]
Result = TypeVar("Result")

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

INCOMING = "create temp table incoming (message_id text, sent_at timestamptz, body text) on commit delete rows"
# Binary, because an error in a text COPY quotes the row, in the server's log too. And COPY, because the parameters of an
# INSERT are written to that log by log_min_duration_statement.
COPY = "copy pg_temp.incoming (message_id, sent_at, body) from stdin (format binary)"
# No conflict target: with one, a role that may only insert is refused.
LAND = """
    insert into staging.raw_logins (message_id, sent_at, body)
    select message_id, sent_at, body from pg_temp.incoming
    on conflict do nothing
"""
# The work list, in the same transaction: dbt judges what stands on it.
LIST = """
    insert into staging.unjudged (message_id, sent_at)
    select message_id, sent_at from pg_temp.incoming
"""
PARTITIONS = "select staging.ensure_partitions(%s::date[])"
TIMEOUTS = """
    select
        set_config('statement_timeout', %(ms)s, false),
        set_config('idle_in_transaction_session_timeout', %(ms)s, false)
"""

PARTITION_ATTEMPTS = 3
CANCEL_SECONDS = 1
# drain gives up on a server or a queue that has been away for so long; follow never does.
OUTAGE_SECONDS = 300

# What passes: a restart, a failover, a full disk, a deadlock, a time-out, a network. The transaction is done again from its start.
PASSING = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,  # such as 25006: we are on the old primary, during a failover
    OSError,
    TimeoutError,
    NoCredentialsNowError,
)


class Landing:
    """The connection that batches land over: opened at need, and opened again whenever it breaks."""

    def __init__(self, settings: LoaderSettings, on_trouble: Callable[[str], None], *, gives_up: bool) -> None:
        """Call *on_trouble* with a line that says why, each time that a batch has to be tried again.

        With *gives_up*, a server that has been away for `OUTAGE_SECONDS` is an error.
        """
        self._settings = settings
        self._gives_up = gives_up
        self._on_trouble = on_trouble
        self._connection: Connection | None = None

    async def open(self) -> None:
        """Connect, and prove that we may land.

        Raises:
            LoaderError: no server, no access, or no `staging.raw_logins`.
        """
        try:
            await self._connected()
        except NoCredentialsNowError:
            raise
        except PASSING as error:
            raise unavailable(f"{_reason(error, self._settings)}; start it, or check PGHOST and PGPORT") from None

    async def land(self, batch: Sequence[Message]) -> int:
        """Commit *batch*, and return how many of its rows are new; the others had landed before.

        Does not return before it is committed: it tries again, with back-off, for as long as it takes.

        Raises:
            LoaderError: trying again cannot help, or has not for too long.
        """
        rows = sorted((message.message_id, _sent_at(message), storable(message.body)) for message in batch)
        started = time.monotonic()
        failures = 0
        partitions_missed = 0
        partitions_due = False
        while True:
            try:
                connection = await self._connected()
                if partitions_due:
                    # In a transaction of its own, so that its locks are short.
                    await _within(self._settings.loader_timeout_seconds, _ensure_partitions(connection, rows))
                    partitions_due = False
                return await _within(self._settings.loader_timeout_seconds, _insert(connection, rows))
            except sqlstate.CheckViolation:
                # A day that has no partition, because nothing came of it before or because retention has just dropped it.
                partitions_missed += 1
                if partitions_missed > PARTITION_ATTEMPTS:
                    raise wrong_setting("staging.raw_logins takes no row of this day; run python -m loader migrate") from None
                partitions_due = True
            except PASSING as error:
                failures += 1
                reason = _reason(error, self._settings)
                if self._gives_up and time.monotonic() - started > OUTAGE_SECONDS:
                    raise unavailable(f"{reason}, for {OUTAGE_SECONDS} s now; run python -m loader drain again later") from None
                self._on_trouble(reason)
                await self.close()
                await asyncio.sleep(backoff_seconds(failures))
            except psycopg.Error as error:
                raise _fatal(error, self._settings) from None

    async def close(self) -> None:
        """Let go of the connection; what was not committed is rolled back."""
        connection, self._connection = self._connection, None
        if connection:
            await connection.close()

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            try:
                self._connection = await _within(self._settings.loader_timeout_seconds, _connect(self._settings))
            except psycopg.Error as error:
                unverified = not_verified(_reason(error, self._settings))
                if isinstance(error, PASSING) and not unverified and not _is_refusal(error):
                    raise
                raise unverified or _fatal(error, self._settings) from None
        return self._connection


def storable(body: str) -> str:
    r"""*body* itself, or `\x` and the hex of its UTF-8 where PostgreSQL's text cannot hold it (U+0000, lone surrogates).

    That form is never JSON, so SQL rejects the message; no content can stop the loader.
    """
    try:
        if "\0" not in body:
            body.encode()
            return body
    except UnicodeEncodeError:
        pass
    return "\\x" + body.encode(errors="surrogatepass").hex()


def _sent_at(message: Message) -> dt.datetime:
    return EPOCH + dt.timedelta(milliseconds=message.sent_ms)


async def _ensure_partitions(connection: Connection, rows: Sequence[tuple[str, dt.datetime, str]]) -> None:
    await connection.execute(PARTITIONS, [sorted({sent_at.date() for _, sent_at, _ in rows})])


async def _insert(connection: Connection, rows: Sequence[tuple[str, dt.datetime, str]]) -> int:
    # The rows come sorted by key, so that two loaders with the same messages wait for each other and never in a circle.
    async with connection.transaction(), connection.cursor() as cursor:
        async with cursor.copy(COPY) as copy:
            copy.set_types(("text", "timestamptz", "text"))
            for row in rows:
                await copy.write_row(row)
        await cursor.execute(LAND)
        landed = cursor.rowcount
        await cursor.execute(LIST)
        return landed


async def _connect(settings: LoaderSettings) -> Connection:
    silence = int(settings.loader_timeout_seconds)
    # In a thread, for AWS credentials may have to be fetched.
    password = await asyncio.to_thread(password_for, settings.pguser, settings.password)
    connection = await psycopg.AsyncConnection.connect(
        user=settings.pguser,
        password=password,
        application_name="user-logins loader",
        connect_timeout=silence,
        # A server that vanished answers nothing, and without these the kernel would wait for it for hours.
        keepalives_idle=max(1, silence // 2),
        keepalives_interval=max(1, silence // 6),
        keepalives_count=3,
        tcp_user_timeout=silence * 1000,
        autocommit=True,
    )
    try:
        await connection.execute(TIMEOUTS, {"ms": str(silence * 1000)})
        await connection.execute(INCOMING)
        # land nothing, and are refused now if they would be refused later
        await connection.execute(LAND)
        await connection.execute(LIST)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _within(seconds: float, work: Coroutine[Any, Any, Result]) -> Result:
    """Do *work* on a connection, or raise TimeoutError and leave it broken.

    A psycopg that is cancelled asks the server to cancel, and waits for that; told twice, it gives the connection up.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=CANCEL_SECONDS)


def is_no_database(error: BaseException) -> bool:
    """Whether *error* says that there is no database of that name; an error in connecting has no SQLSTATE to tell."""
    return re.search('database ".*" does not exist', str(error)) is not None


def _is_refusal(error: BaseException) -> bool:
    text = str(error)
    return any(words in text for words in ("authentication failed", "no password supplied", "does not exist", "no pg_hba.conf entry"))


def _fatal(error: psycopg.Error, settings: LoaderSettings) -> LoaderError:
    if isinstance(error, (sqlstate.UndefinedTable, sqlstate.InvalidSchemaName, sqlstate.UndefinedColumn, sqlstate.UndefinedFunction)):
        return wrong_setting("staging.raw_logins is not as this loader needs it, or not there; run python -m loader migrate")
    if isinstance(error, sqlstate.InsufficientPrivilege):
        return refused(f"PostgreSQL refuses role {settings.pguser} ({_reason(error, settings)}); run python -m loader migrate")
    if "no password supplied" in str(error):
        return wrong_setting("LOADER_PASSWORD is not set; copy .env.example to .env or run make up")
    if is_no_database(error):
        return wrong_setting(f"{_reason(error, settings)}; check PGDATABASE")
    if _is_refusal(error):
        return refused_login(_reason(error, settings), "LOADER_PASSWORD and PGUSER, or run python -m loader migrate")
    return LoaderError(f"PostgreSQL cannot land a batch: {_reason(error, settings)}", os.EX_SOFTWARE)


def _reason(error: BaseException, settings: LoaderSettings) -> str:
    """Why, in one line. The server's words are only taken where they cannot quote a row."""
    if isinstance(error, TimeoutError):
        return f"PostgreSQL at {settings.pghost} did not answer in time"
    if isinstance(error, psycopg.Error) and error.sqlstate:
        quotes_rows = error.sqlstate.startswith(("22", "23"))
        return f"SQLSTATE {error.sqlstate}" + ("" if quotes_rows else f": {error.diag.message_primary}")
    return str(error).strip().partition("\n")[0] or type(error).__name__
