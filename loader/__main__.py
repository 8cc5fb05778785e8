"""The command line: `python -m loader migrate | drain | follow | rds-token`."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import click
import psycopg

from loader import aws
from loader import settings as environment
from loader.errors import LoaderError, first_line, refused, unavailable, unfinished
from loader.landing import Landing
from loader.login import password_for, refusal, token_for
from loader.metrics import Tally, serve
from loader.migrate import TABLES, MigrationError, migrate
from loader.pipeline import Pipeline
from loader.report import Report
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
        raise refusal(error, "ADMIN_PASSWORD", "ADMIN_USER") from None
    with connection:
        try:
            applied = migrate(connection, DATABASE, settings.role_passwords)
        except MigrationError as error:
            raise LoaderError(str(error), os.EX_SOFTWARE) from None
        except psycopg.errors.InsufficientPrivilege as error:
            raise refused(f"{settings.user} may not do this ({error.diag.message_primary}); set ADMIN_USER to an administrator") from None
        except psycopg.OperationalError as error:
            raise unavailable(f"{first_line(error)}; run it again, it changes all or nothing") from None
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
    aws_settings = lambda: aws.missing(os.environ.get("SQS_QUEUE_URL", ""), os.environ.get("AWS_REGION"))  # noqa: E731
    settings = environment.read(LoaderSettings, aws_settings)
    asyncio.run(load(settings, until_empty=until_empty))


async def load(settings: LoaderSettings, *, until_empty: bool) -> None:
    """Load from the queue of *settings* until it is empty, or until told to stop by a signal.

    Raises:
        LoaderError: it could not begin, could not go on, or could not finish.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.set_default_executor(DaemonThreads())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tally, report, landing = Tally(), Report(), Landing(settings)
    async with contextlib.AsyncExitStack() as stack:
        if not until_empty:
            stack.push_async_callback(asyncio.to_thread, serve(settings.loader_http_host, settings.loader_http_port, tally))
        stack.push_async_callback(landing.close)
        await _unless(stop, landing.open())
        queue = await _unless(stop, open_queue(settings))
        tally.received_at = tally.committed_at = time.monotonic()  # both answered; an idle queue's first receive takes 20 s
        stack.push_async_callback(queue.caller.close)
        stack.callback(report.summary, tally)
        if not landing.is_durable:
            report.trouble("a crash of PostgreSQL's machine may lose what it committed", "fsync or full_page_writes is off")
        await Pipeline(queue, landing, settings, tally, report).run(stop, until_empty=until_empty)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, Opened]) -> Opened:
    """Do *work*, but leave at once when told to stop: nothing is held yet."""
    task, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        raise unfinished("stopped before it began")
    return task.result()


class DaemonThreads(ThreadPoolExecutor):
    """Runs each piece of work in a thread that does not keep the process from ending: a fetch of credentials, a name that is looked up."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """See `concurrent.futures.Executor.submit`."""
        future: Future[Any] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(*arguments, **named))
                except BaseException as error:  # noqa: BLE001  # the one who waits for it gets it
                    future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


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
