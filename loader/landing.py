"""Batches into `staging.raw_logins`: one transaction each, as often as it takes."""

import asyncio
import datetime
import os
import random
from collections.abc import Callable, Sequence

import psycopg
from psycopg import errors as sqlstate

from loader.errors import LoaderError, refused, unavailable, wrong_setting
from loader.settings import LoaderSettings
from loader.sqs import Message

Connection = psycopg.AsyncConnection[tuple[object, ...]]

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

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
PARTITIONS = "select staging.ensure_partitions(%s::date[])"
TIMEOUTS = """
    select
        set_config('statement_timeout', %(ms)s, false),
        set_config('idle_in_transaction_session_timeout', %(ms)s, false)
"""

PARTITION_ATTEMPTS = 3
CONNECT_SECONDS = 10

# What passes: a restart, a failover, a full disk, a deadlock, a time-out, a network. The transaction is done again from its start.
PASSING = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    sqlstate.ReadOnlySqlTransaction,  # the old primary, during a failover
    sqlstate.InFailedSqlTransaction,
    OSError,
    TimeoutError,
)


class Landing:
    """The connection that batches land over: opened at need, and opened again whenever it breaks."""

    def __init__(self, settings: LoaderSettings, on_trouble: Callable[[str], None]) -> None:
        """Call *on_trouble* with a line that says why, each time that a batch has to be tried again."""
        self._settings = settings
        self._on_trouble = on_trouble
        self._connection: Connection | None = None

    async def open(self) -> None:
        """Connect, and prove that we may land.

        Raises:
            LoaderError: no server, no access, or no `staging.raw_logins`.
        """
        try:
            await self._connected()
        except PASSING as error:
            raise unavailable(f"{_reason(error, self._settings)}; start it, or check PGHOST and PGPORT") from None

    async def land(self, batch: Sequence[Message]) -> int:
        """Commit *batch*, and return how many of its rows are new; the others had landed before.

        Does not return before it is committed: it tries again, with back-off, for as long as nobody cancels it.

        Raises:
            LoaderError: trying again cannot help.
        """
        rows = sorted((message.message_id, _sent_at(message), storable(message.body)) for message in batch)
        failures = 0
        partitions_missed = 0
        while True:
            try:
                async with asyncio.timeout(self._settings.loader_timeout_seconds + CONNECT_SECONDS):
                    return await _insert(await self._connected(), rows)
            except sqlstate.CheckViolation:
                # A day that has no partition, because nothing came of it before or because retention has just dropped it.
                partitions_missed += 1
                if partitions_missed > PARTITION_ATTEMPTS:
                    raise wrong_setting("staging.raw_logins takes no row of this day; run python -m loader migrate") from None
                await self._ensure_partitions(sorted({sent_at.date() for _, sent_at, _ in rows}))
            except PASSING as error:
                failures += 1
                self._on_trouble(_reason(error, self._settings))
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
                self._connection = await _connect(self._settings)
            except psycopg.Error as error:
                if isinstance(error, PASSING) and not _is_refusal(error):
                    raise
                raise _fatal(error, self._settings) from None
        return self._connection

    async def _ensure_partitions(self, dates: list[datetime.date]) -> None:
        try:
            async with asyncio.timeout(self._settings.loader_timeout_seconds + CONNECT_SECONDS):
                # In a transaction of its own: it locks the table against every other loader until it commits.
                await (await self._connected()).execute(PARTITIONS, [dates])
        except PASSING as error:
            self._on_trouble(_reason(error, self._settings))
            await self.close()


def backoff_seconds(failures: int) -> float:
    """How long to wait after *failures* in a row (1 and up): doubling from 0.1 s to 5 s, and random, so that loaders do not march in step."""
    return float(random.uniform(0.5, 1) * min(5.0, 0.1 * 2 ** min(failures - 1, 10)))  # noqa: S311  # no secret depends on it


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


def _sent_at(message: Message) -> datetime.datetime:
    return EPOCH + datetime.timedelta(milliseconds=message.sent_ms)


async def _insert(connection: Connection, rows: Sequence[tuple[str, datetime.datetime, str]]) -> int:
    # The rows come sorted by key, so that two loaders with the same messages wait for each other and never in a circle.
    async with connection.transaction(), connection.cursor() as cursor:
        async with cursor.copy(COPY) as copy:
            copy.set_types(("text", "timestamptz", "text"))
            for row in rows:
                await copy.write_row(row)
        await cursor.execute(LAND)
        return cursor.rowcount


async def _connect(settings: LoaderSettings) -> Connection:
    silence = max(2, int(settings.loader_timeout_seconds))
    async with asyncio.timeout(settings.loader_timeout_seconds):
        connection = await psycopg.AsyncConnection.connect(
            user=settings.pguser,
            password=settings.password,
            application_name="user-logins loader",
            connect_timeout=CONNECT_SECONDS,
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
            await connection.execute(LAND)  # lands nothing, and is refused now if it would be refused later
        except BaseException:
            await connection.close()
            raise
    return connection


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
    if _is_refusal(error):
        return refused(f"{_reason(error, settings)}; check LOADER_PASSWORD, PGUSER and PGDATABASE, or run python -m loader migrate")
    return LoaderError(f"PostgreSQL cannot land a batch: {_reason(error, settings)}", os.EX_SOFTWARE)


def _reason(error: BaseException, settings: LoaderSettings) -> str:
    """Why, in one line. The server's words are only taken where they cannot quote a row."""
    if isinstance(error, TimeoutError):
        return f"PostgreSQL at {settings.pghost} did not answer in time"
    if isinstance(error, psycopg.Error) and error.sqlstate:
        quotes_rows = error.sqlstate.startswith(("22", "23"))
        return f"SQLSTATE {error.sqlstate}" + ("" if quotes_rows else f": {error.diag.message_primary}")
    return str(error).strip().partition("\n")[0] or type(error).__name__
