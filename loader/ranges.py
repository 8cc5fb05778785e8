"""Load `staging.ip_ranges`, by which masking knows the country and the operator of an address, from a public file."""

import csv
import datetime as dt
import gzip
import io
import itertools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg
from psycopg import errors as sqlstate
from psycopg import sql

from loader.errors import LoaderError, first_line, unavailable, wrong_setting
from loader.landing import NOT_MIGRATED
from loader.migrate import OWNER, Connection

COLUMNS = ("first_ip", "last_ip", "country", "asn")
# What a column is called where the first line has names; the first name that is there counts.
NAMES = {
    "first_ip": ("network", "start_ip", "range_start", "ip_range_start", "first_ip"),
    "last_ip": ("end_ip", "range_end", "ip_range_end", "last_ip"),
    "country": ("country_code", "country_iso_code", "country"),
    "asn": ("asn", "as_number", "autonomous_system_number"),
}
# Without names, by how many columns there are, as the public files have them.
UNNAMED = {
    3: {"first_ip": 0, "last_ip": 1, "country": 2},
    4: {"first_ip": 0, "last_ip": 1, "asn": 2},
    5: {"first_ip": 0, "last_ip": 1, "asn": 2, "country": 3},
}
GZIP = b"\x1f\x8b"
TOLD_LINES = 10_000
LINE_CHARACTERS = 100_000  # of the first line, at most; csv has a limit of its own for the others
LINES = "create temporary table lines (number bigint, first_ip text, last_ip text, country text, asn text) on commit drop"


def load_ranges(connection: Connection, path: Path, progress: Callable[[int], None]) -> tuple[int, int, int]:
    """Replace all ranges by those of *path*, in one transaction; return how many there are, with a country and with an operator.

    The file is CSV, or has tabs; it may be compressed by gzip. *progress* is told how many more bytes of it have been read.

    Raises:
        LoaderError: it cannot be read, or a line is wrong; then nothing has changed.
    """
    try:
        date = dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC).date()
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(sql.SQL("set local role {}").format(sql.Identifier(OWNER)))
            cursor.execute(LINES)
            with cursor.copy("copy pg_temp.lines from stdin") as copy:
                for number, line in _lines(path, progress):
                    copy.write_row((number, *line))
            cursor.execute("select * from staging.replace_ip_ranges(%s, %s)", [path.name, date])
            ((placed, countries, operators),) = cursor.fetchall()
            return placed, countries, operators
    except sqlstate.RaiseException as error:
        raise _wrong(f"{path.name} {error.diag.message_primary}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise _wrong(f"{path.name} cannot be read: {getattr(error, 'strerror', None) or first_line(error)}") from None
    except NOT_MIGRATED:
        raise wrong_setting("the database has no place for ranges; run python -m loader migrate") from None
    except (UnicodeDecodeError, csv.Error, psycopg.DataError) as error:
        raise _wrong(f"{path.name} is no text with columns ({type(error).__name__})") from None
    except psycopg.OperationalError as error:
        raise unavailable(f"{first_line(error)}; run it again, it changes all or nothing") from None


def _lines(path: Path, progress: Callable[[int], None]) -> Iterator[tuple[int, list[str | None]]]:
    """Each line's number and its COLUMNS."""
    with path.open("rb") as raw:
        unpacked = gzip.GzipFile(fileobj=raw) if raw.peek(len(GZIP)).startswith(GZIP) else raw
        text = io.TextIOWrapper(unpacked, "utf-8-sig", newline="")
        delimiter = "\t" if "\t" in (first := text.readline(LINE_CHARACTERS)) else ","
        head = next(csv.reader([first], delimiter=delimiter), [])
        places = (named := _named(head)) or UNNAMED.get(len(head))
        if not places:
            raise _wrong(f"{path.name} line 1 has {len(head)} columns, of which none is called network or start_ip")
        rows = csv.reader(text, delimiter=delimiter)
        told = 0
        for row in filter(None, itertools.chain([] if named else [head], rows)):
            number = rows.line_num + 1
            yield number, [row[places[column]].strip() if places.get(column, len(row)) < len(row) else None for column in COLUMNS]
            if number % TOLD_LINES == 0:
                progress(raw.tell() - told)
                told = raw.tell()
        progress(raw.tell() - told)


def _named(head: Sequence[str]) -> dict[str, int]:
    """Where each of the COLUMNS is, by the names in the first line; nothing where it has no names."""
    names = [name.strip().lower() for name in head]
    found = {column: names.index(name) for column, known in NAMES.items() for name in reversed(known) if name in names}
    return found if "first_ip" in found else {}


def _wrong(found: str) -> LoaderError:
    return LoaderError(
        f"{found}; take a file whose lines are ranges with a country or an operator, see README; nothing was changed", os.EX_DATAERR
    )
