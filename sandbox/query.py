"""Run a query and print its rows as a table."""

import os
from collections.abc import Generator, Mapping
from itertools import islice
from typing import cast

import psycopg
from psycopg import errors
from psycopg.types.string import TextLoader
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sandbox.errors import SandboxError, refusal
from sandbox.settings import required

MAX_ROWS = 1_000


def wide_console() -> Console:
    """A console that neither cuts nor folds a value, however narrow the terminal, so that tokens can be copied."""
    return Console(width=10_000)


def connect(role: str, environ: Mapping[str, str]) -> psycopg.Connection:
    """Connect as *role* to the database that libpq's variables name; SandboxError if that is refused."""
    variable = f"{role.upper()}_PASSWORD"
    try:
        return psycopg.connect(user=role, password=required(environ, variable), autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        refused = "authentication failed" in (reason := refusal(error))
        advice = f"correct {variable}, or run make up, which sets it" if refused else "run make up, or correct PGHOST and PGPORT"
        raise SandboxError(f"{reason}; {advice}", os.EX_NOPERM if refused else os.EX_UNAVAILABLE) from error


def print_query(connection: psycopg.Connection, query: str, console: Console, title: str | None = None) -> None:
    """Run *query*, one statement, and print its rows, the first 1,000 at most, each value as PostgreSQL writes it; null is empty.

    With a *title* they are not counted. Raises SandboxError with the server's own words when it refuses the query.
    """
    try:
        with connection.cursor() as cursor:
            for oid in (oid for known in connection.adapters.types for oid in (known.oid, known.array_oid) if oid):
                cursor.adapters.register_loader(oid, TextLoader)
            rows = cast("Generator[tuple[str | None, ...]]", cursor.stream(query.encode()))
            shown = list(islice(rows, MAX_ROWS))
            more = next(rows, None) is not None
            columns = [column.name for column in cursor.description or ()]
            rows.close()
    except psycopg.Error as error:
        raise _explained(error) from error
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(Text(name), no_wrap=True)
    for row in shown:
        table.add_row(*map(_cell, row))
    count = f"{len(shown)} row{'' if len(shown) == 1 else 's'}{', and more: add a limit or a condition' if more else ''}"
    console.print(
        *([Text(title, style="bold")] if title else []), *([table] if shown else []), *([] if title else [count]), sep="\n", highlight=False
    )


def _explained(error: psycopg.Error) -> SandboxError:
    message = error.diag.message_primary or " ".join(str(error).split())
    if isinstance(error, errors.InsufficientPrivilege):
        return SandboxError(f"{message}; an analyst sees the views in the schema analytics", os.EX_NOPERM)
    if isinstance(error, (errors.UndefinedTable, errors.InvalidSchemaName)):
        return SandboxError(f"{message}; an analyst sees the views in the schema analytics, once dbt run has made them", os.EX_DATAERR)
    return SandboxError(f"{message}; {'correct the SQL' if error.sqlstate else 'give one statement that returns rows'}", os.EX_DATAERR)


def _cell(value: str | None) -> Text:
    # text from an event must not control the terminal
    return Text("".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in value or ""))
