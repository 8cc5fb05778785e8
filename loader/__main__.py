"""The command line: `python -m loader migrate | ranges | drain | follow | rds-token`."""

import asyncio
import gc
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

import click
import psycopg

from loader import aws
from loader.errors import LoaderError
from loader.landing import Landing
from loader.login import password_for, refusal, token_for
from loader.migrate import TABLES, foresee, let_in_by_iam, migrate
from loader.pipeline import Pipeline
from loader.ranges import load_ranges
from loader.report import Report, serve
from loader.settings import LOGIN_ROLES, LoaderSettings, MigrateSettings, read
from loader.sqs import connect

STOP = (signal.SIGTERM, signal.SIGINT)
DATABASE = Path(__file__).resolve().parent.parent / "database"


@click.group()
def cli() -> None:
    """Load login events from SQS into PostgreSQL's staging.raw_logins.

    Everything is set by environment variables, or by .env in the working directory: see .env.example.

    \b
    Exit codes:
      0   done
      2   a wrong command line
      65  a wrong file of ranges
      69  the server or the queue is down or not there
      70  an error in the loader itself
      75  stopped before the work was done; run it again
      76  the endpoint does not speak as SQS does
      77  credentials or a permission refused
      78  a variable is missing or wrong
    """  # noqa: D301  # \b is click's mark for a paragraph to be left as it is


@cli.command("migrate")
@click.option("--dry-run", is_flag=True, help="Change nothing; say how many of the newest messages would be masked by database/.")
def migrate_command(*, dry_run: bool) -> None:
    """Create or update roles, schemas, tables and functions from database/.

    Connects as ADMIN_USER with ADMIN_PASSWORD, and gives each login role the password of its variable (LOADER_PASSWORD,
    TRANSFORMER_PASSWORD, ANALYST_PASSWORD and so on), where that is set; with RDS_IAM_AUTH, the others log in by IAM. Running it again
    leaves the data as they are, takes back what was granted by hand, and sets the passwords again.
    """
    settings = read(MigrateSettings)
    passwords = {role: password for role in LOGIN_ROLES if (password := os.environ.get(f"{role.upper()}_PASSWORD"))}
    with _connect_as_administrator(settings, "migrate") as connection:
        if dry_run:
            for place, judged, passing in foresee(connection, DATABASE):
                click.echo(f"{place}: {passing:,} of {judged:,} messages would be masked")
            return
        applied = migrate(connection, DATABASE, passwords)
        if settings.rds_iam_auth:
            let_in_by_iam(connection, [role for role in LOGIN_ROLES if role not in passwords])
    tables = sum(name.startswith(TABLES) for name in applied)
    click.echo(f"database/ applied: {len(applied)} files{f', {tables} of them new tables' if tables else '; no table is new'}")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
def ranges(file: Path) -> None:
    """Replace what is known of addresses, their country and operator, by FILE: ranges of addresses in CSV, or with tabs, or in gzip.

    Its columns are named, or are those of iptoasn.com (first, last, asn, country, name) or of DB-IP's (first, last, country) and (first,
    last, asn, name). Connects as migrate does. Logins that are masked from now on go by it; `make backfill` has the earlier ones follow.
    """
    size = file.stat().st_size if file.is_file() else 0
    bar = click.progressbar(length=size, label=file.name, hidden=not sys.stdout.isatty())
    with _connect_as_administrator(read(MigrateSettings), "ranges") as connection, bar:
        loaded, countries, operators = load_ranges(connection, file, bar.update)
    click.echo(f"{loaded:,} ranges of addresses from {file.name}, {countries:,} with a country, {operators:,} with an operator")


def _connect_as_administrator(settings: MigrateSettings, name: str) -> psycopg.Connection[Any]:
    user = settings.admin_user or settings.pguser
    try:
        password = password_for(user, settings.admin_password or settings.pgpassword)
        return psycopg.connect(user=user, password=password, connect_timeout=10, application_name=f"user-logins {name}")
    except psycopg.OperationalError as error:
        raise refusal(error, "ADMIN_PASSWORD", "ADMIN_USER") from None


@cli.command()
def drain() -> None:
    """Load until the queue is empty.

    Ends when several receives in a row brought nothing and SQS counts no message as visible, delayed or in flight. Messages that
    another consumer holds are waited for, 15 minutes at most; if they stay, the exit code is 75.
    """
    _run(until_empty=True)


@cli.command()
def follow() -> None:
    """Load until told to stop, by SIGTERM or SIGINT.

    Answers HTTP on LOADER_HTTP_HOST:LOADER_HTTP_PORT: /live, /ready and, for Prometheus, /metrics. When told to stop it lands and
    deletes what it holds, gives the rest back to the queue, and ends within LOADER_GRACE_SECONDS.
    """
    _run(until_empty=False)


@cli.command("rds-token")
@click.argument("user")
def rds_token(user: str) -> None:
    """Print a token that RDS takes as the password of USER for 15 minutes, for programs that are no part of this one, such as dbt.

    TRANSFORMER_PASSWORD=$(python -m loader rds-token transformer) dbt run
    """
    click.echo(token_for(user))


def _run(*, until_empty: bool) -> None:
    # Never closed: that would wait for a hung fetch of credentials.
    asyncio.new_event_loop().run_until_complete(load(read(LoaderSettings, aws.missing), until_empty=until_empty))


async def load(settings: LoaderSettings, *, until_empty: bool) -> None:
    """Load from the queue of *settings* until it is empty, or until told to stop by a signal; or raise a LoaderError."""
    gc.freeze()  # what is imported stays
    gc.set_threshold(20_000, 50, 100)  # messages die by themselves; what is in a cycle, such as an error's traceback, can wait
    logging.disable()  # botocore and psycopg may quote requests, and asyncio whole exceptions
    report, landing, stop = Report(), Landing(settings), asyncio.Event()
    if not until_empty:
        serve(settings.loader_http_host, settings.loader_http_port, report)
    await landing.open()
    report.is_durable = lambda: landing.is_durable
    if not landing.is_durable:
        report.trouble("a crash of PostgreSQL's machine may lose what it committed", "fsync or full_page_writes is off")
    queue = await asyncio.to_thread(connect, settings)
    await queue.check()
    for number in STOP:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    report.received_at = report.committed_at = monotonic()  # both answered; an idle queue's first receive takes 20 s
    try:
        await Pipeline(queue, landing, settings, report).run(stop, until_empty=until_empty)
    finally:
        report.summary()
        await landing.close()


def main() -> NoReturn:
    """Run the command line; every error becomes one line on stderr and an exit code."""
    exit_code = os.EX_OK
    for number in STOP:
        signal.signal(number, signal.default_int_handler)  # until there is something to finish
    try:
        cli(standalone_mode=False, prog_name="python -m loader")
    except LoaderError as error:
        click.echo(error, err=True)
        exit_code = error.exit_code
    except click.ClickException as error:
        error.show()
        exit_code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        exit_code = 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001  # a traceback may quote a message; where it happened is enough to find it
        where = traceback.extract_tb(error.__traceback__)[-1]
        found = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
        click.echo(f"error in the loader itself: {found}; please report it", err=True)
        exit_code = os.EX_SOFTWARE
    sys.stdout.flush()
    os._exit(exit_code)  # a thread that hangs, such as a fetch of credentials, does not keep us


if __name__ == "__main__":
    main()
