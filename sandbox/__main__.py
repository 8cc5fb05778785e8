"""The sandbox's command line: `python -m sandbox --help`."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import psycopg
from psycopg import sql

from sandbox import emulator, postgres, settings
from sandbox.emulator import Emulator
from sandbox.errors import SandboxError
from sandbox.postgres import Postgres
from sandbox.query import psql
from sandbox.report import draw, serve
from sandbox.seed import depth
from sandbox.seed import seed as send_lines
from sandbox.settings import STATE

LINES_NAMED = 10
WATCH_SECONDS = 0.2
SHOWN = Path(__file__).parent / "show"  # SQL by the role that runs it


class OneLineErrors(click.Group):
    """A group of commands whose errors are one line on stderr."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a SandboxError becomes its line and its exit code."""
        try:
            return super().invoke(ctx)
        except SandboxError as error:
            click.echo(error, err=True)
            raise click.exceptions.Exit(error.exit_code) from error


@click.group(cls=OneLineErrors)
def main() -> None:
    """Run PostgreSQL and an SQS emulator on this machine, and send events to try them with.

    `up` creates .sandbox/ with their data, and .env with addresses and passwords.
    """
    settings.load_env_file()


@main.command()
def up() -> None:
    """Start what is not running, apply database/, create the queue. Harmless if everything is running."""
    with _locked():
        settings.load_env_file(settings.ENV_EXAMPLE)
        wanted = settings.read_settings(os.environ)
        _complete_env_file({name: value for name, value in os.environ.items() if name not in settings.ADDRESSES})
        settings.load_env_file()
        server = Postgres(STATE.absolute(), wanted.postgres_port, wanted.admin_user, os.environ["ADMIN_PASSWORD"])
        queues = Emulator(STATE.absolute(), wanted.emulator_port)
        click.echo(f"PostgreSQL {postgres.major_version()} {'started' if postgres.start(server) else 'runs'} on 127.0.0.1:{server.port}")
        click.echo(f"SQS emulator {'started' if emulator.start(queues) else 'runs'} on 127.0.0.1:{queues.port}")
        _create_database(server, wanted.database)
        # as production does; what it did is not said, what fails is
        migrate = subprocess.run([sys.executable, "-m", "loader", "migrate"], stdout=subprocess.DEVNULL, check=False)
        if migrate.returncode != 0:
            raise click.exceptions.Exit(migrate.returncode)
        url = emulator.create_queue(queues, wanted.queue_name)
        click.echo(f"database/ applied to {wanted.database}; queue {url}, dead letters after {emulator.MAX_RECEIVE_COUNT} receives")
        settings.write_dbt_profile(os.environ)
        _complete_env_file(os.environ)  # its addresses, now that something answers there


@main.command()
def down() -> None:
    """Stop what `up` started. The database and the queue keep their data."""
    with _locked():
        _stop()


@main.command()
def clean() -> None:
    """Stop and delete all data. .env stays, because you may have edited it."""
    with _locked():
        _stop()
        settings.SANDBOX_PROFILE.unlink(missing_ok=True)
        shutil.copyfile(settings.NO_PROFILE, settings.SANDBOX_PROFILE)
        for folder in (STATE, settings.DBT_ARTEFACTS, settings.DBT_LOGS):
            shutil.rmtree(folder, ignore_errors=True)
    click.echo("all data of the sandbox is gone")


@main.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, readable=False))
def seed(file: Path | None) -> None:
    r"""Send each line of FILE, verbatim, as one message to SQS_QUEUE_URL; without FILE, 1,000 sample events of the last four weeks.

    Only \n separates lines. Empty lines are skipped. Sending a file again creates new messages.
    """
    seeded = send_lines(file, settings.required(os.environ, "SQS_QUEUE_URL"))
    skipped = f", {seeded.empty} empty lines skipped" if seeded.empty else ""
    click.echo(f"sent {seeded.sent:,} messages from {file or 'the sample'}{skipped}")
    if seeded.refused:
        named = ", ".join(map(str, seeded.refused[:LINES_NAMED])) + (", …" if len(seeded.refused) > LINES_NAMED else "")
        raise SandboxError(
            f"the queue refused {len(seeded.refused)} lines, and they were not sent: {named}; correct them and send them alone",
            os.EX_DATAERR,
        )


@main.command()
def follow() -> None:
    """Run the loader and dbt as services until Ctrl-C, or until one of them ends: then stop the other, too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    services = [subprocess.Popen([sys.executable, "-m", name, "follow"]) for name in ("loader", "transform")]
    with contextlib.suppress(KeyboardInterrupt):
        while all(service.poll() is None for service in services):
            time.sleep(WATCH_SECONDS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # they have heard of it, and end what they have begun
    for service in services:
        service.terminate()
    raise click.exceptions.Exit(max(service.wait() for service in services))


@main.command()
@click.argument("sql_text", metavar="SQL")
def query(sql_text: str) -> None:
    """Run SQL as the role analyst and print its rows."""
    psql("analyst", ["--command", sql_text], os.environ)


@main.command()
@click.argument("folder", default=".", type=click.Path(path_type=Path, exists=True, file_okay=False))
def report(folder: Path) -> None:
    """Draw what an analyst sees into FOLDER/report.html, which loads nothing from elsewhere, and FOLDER/report.png."""
    for picture in (folder / "report.html", folder / "report.png"):
        draw(picture, os.environ)
        click.echo(f"wrote {picture}")


@main.command()
def board() -> None:
    """Serve the same page on this machine until Ctrl-C, drawn anew whenever it is opened."""
    serve(os.environ)


@main.command()
def show() -> None:
    """Print what an analyst sees and where the messages are."""
    for file in sorted(SHOWN.glob("*.sql")):
        psql(file.stem, ["--file", str(file)], os.environ)
    url = settings.required(os.environ, "SQS_QUEUE_URL")
    click.echo(f"queue: {depth(url)} messages, dead-letter queue: {depth(url + emulator.DEAD_LETTER_SUFFIX)} messages")


def _complete_env_file(environ: Mapping[str, str]) -> None:
    if written := settings.complete_env_file(environ):
        click.echo(f".env: wrote {', '.join(written)}")


def _stop() -> None:
    # ports and passwords are not needed to stop
    stopped = ["the SQS emulator"] if emulator.stop(Emulator(STATE.absolute(), 0)) else []
    stopped += ["PostgreSQL"] if postgres.stop(Postgres(STATE.absolute(), 0, "", "")) else []
    click.echo(f"stopped {' and '.join(stopped)}" if stopped else "nothing of the sandbox was running")


def _create_database(server: Postgres, name: str) -> None:
    try:
        with server.connect() as connection:
            if connection.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[0]  # below it libpq hints, and tells of further attempts
        if error.pgconn and error.pgconn.used_password:
            advice = "PostgreSQL's data was made with another ADMIN_USER or ADMIN_PASSWORD: restore them in .env, or run make clean"
            raise SandboxError(f"{reason}; {advice}", os.EX_NOPERM) from error
        raise SandboxError(f"{reason}; see {server.log}") from error


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Let one command at a time change the sandbox."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
