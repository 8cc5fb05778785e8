"""The command line: `python -m loader migrate | drain | follow | rds-token`."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
import psycopg
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from loader import settings as environment
from loader.errors import LoaderError, refused, unavailable, wrong_setting
from loader.landing import Landing, is_no_database
from loader.login import not_verified, password_for, refused_login, token_for
from loader.metrics import Tally, TallyCollector, serve
from loader.migrate import TABLES, MigrationError, migrate
from loader.pipeline import Pipeline
from loader.report import make_report
from loader.settings import LoaderSettings, MigrateSettings
from loader.sqs import open_queue

DATABASE = Path(__file__).resolve().parent.parent / "database"
MIGRATE_CONNECT_SECONDS = 10

Opened = TypeVar("Opened")


@click.group()
def cli() -> None:
    """Load login events from SQS into PostgreSQL's staging.raw_logins.

    Everything is set by environment variables, or by .env in the working directory: see .env.example.

    \b
    Exit codes:
      0   done
      2   a wrong command line
      69  the server or the queue is down or not there
      70  an error in the loader itself
      75  stopped before the work was done; run it again
      76  the endpoint does not speak as SQS does
      77  credentials or a permission refused
      78  a variable is missing or wrong
    """  # noqa: D301  # \b is click's mark for a paragraph to be left as it is


@cli.command("migrate")
def migrate_command() -> None:
    """Create or update roles, schemas, tables and functions from database/.

    Connects as ADMIN_USER with ADMIN_PASSWORD, and gives each login role the password of its variable (LOADER_PASSWORD,
    TRANSFORMER_PASSWORD, ANALYST_PASSWORD and so on), where that is set. Running it again leaves the data as they are, takes back what
    was granted by hand, and sets the passwords again.
    """
    settings = environment.read(MigrateSettings)
    try:
        connection = psycopg.connect(
            user=settings.user,
            password=password_for(settings.user, settings.password),
            connect_timeout=MIGRATE_CONNECT_SECONDS,
            application_name="user-logins migrate",
        )
    except psycopg.OperationalError as error:
        raise _explain_admin(error) from None
    with connection:
        try:
            applied = migrate(connection, DATABASE, settings.role_passwords)
        except MigrationError as error:
            raise LoaderError(str(error), os.EX_SOFTWARE) from None
        except psycopg.errors.InsufficientPrivilege as error:
            raise refused(f"{settings.user} may not do this ({error.diag.message_primary}); set ADMIN_USER to an administrator") from None
        except psycopg.OperationalError as error:
            raise _explain_admin(error) from None
    tables = sum(name.startswith(TABLES) for name in applied)
    click.echo(f"database/ applied: {len(applied)} files{f', {tables} of them new tables' if tables else '; the tables are as they were'}")


@cli.command()
def drain() -> None:
    """Load until the queue is empty.

    Ends when several receives in a row brought nothing and SQS counts no message as visible, delayed or in flight. Messages that
    another consumer holds are waited for as long as the queue's visibility time-out, at least 1 and at most 15 minutes; if they
    stay, the exit code is 75.
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
    settings = environment.read(LoaderSettings)
    asyncio.run(load(settings, until_empty=until_empty))


async def load(settings: LoaderSettings, *, until_empty: bool) -> None:
    """Load from the queue of *settings* until it is empty, or until told to stop by a signal.

    Raises:
        LoaderError: it could not begin, could not go on, or could not finish.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tally = Tally()
    registry = CollectorRegistry()
    registry.register(TallyCollector(tally))
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)

    report = make_report()

    def database_failed(reason: str) -> None:
        tally.database_errors += 1
        tally.database_ready = False
        report.trouble("PostgreSQL failed, trying again", reason)

    landing = Landing(settings, database_failed, gives_up=until_empty)
    close_http: Callable[[], None] | None = None
    queue = None
    try:
        if not until_empty:
            close_http = serve(settings.loader_http_host, settings.loader_http_port, registry, tally)
        await _unless(stop, landing.open())
        queue = await _unless(stop, open_queue(settings))
        tally.database_ready = tally.queue_ready = True
        pipeline = Pipeline(queue, landing, settings, tally, report)
        started = time.monotonic()
        report.start()
        try:
            await pipeline.run(stop, until_empty=until_empty)
        finally:
            report.summary(tally, time.monotonic() - started)
    finally:
        if close_http:
            await asyncio.to_thread(close_http)
        await landing.close()
        if queue is not None:
            await queue.caller.close()


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, Opened]) -> Opened:
    """Do *work*, but leave at once when told to stop: nothing is held yet."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        raise LoaderError("stopped before it began", os.EX_TEMPFAIL)
    return task.result()


def _explain_admin(error: psycopg.OperationalError) -> LoaderError:
    found = str(error).strip().partition("\n")[0]
    if unverified := not_verified(found):
        return unverified
    if "no password supplied" in found:
        return wrong_setting("ADMIN_PASSWORD is not set; copy .env.example to .env or run make up")
    if "authentication failed" in found:
        return refused_login(found, "ADMIN_USER and ADMIN_PASSWORD")
    if is_no_database(error):
        return wrong_setting(f"{found}; create it, or check PGDATABASE")
    return unavailable(f"{found}; start the server, or check PGHOST and PGPORT")


def main() -> None:
    """Run the command line; every error becomes one line on stderr and an exit code."""
    try:
        cli(standalone_mode=False, prog_name="python -m loader")
    except LoaderError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(128 + signal.SIGINT)
    except Exception as error:  # noqa: BLE001  # a traceback may quote a message; where it happened is enough to find it
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "an unknown place"
        click.echo(f"error in the loader itself: {type(error).__name__} at {where}; please report it", err=True)
        sys.exit(os.EX_SOFTWARE)


if __name__ == "__main__":
    main()
