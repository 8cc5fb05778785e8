"""The sandbox's command line: `python -m sandbox --help`."""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
import psycopg
from psycopg import sql

from sandbox import emulator, login_queue, postgres, settings, sqs
from sandbox.dbt_results import failed_tests
from sandbox.emulator import Emulator
from sandbox.errors import SandboxError, refusal
from sandbox.postgres import Postgres
from sandbox.query import connect, print_query, wide_console
from sandbox.seed import seed as send_lines
from sandbox.settings import DBT_ARTEFACTS, STATE

LOGIN_ROLES = ("LOADER", "TRANSFORMER", "ANALYST", "PII_REQUESTER", "PII_APPROVER", "PRIVACY_OFFICER")
LINES_NAMED = 10


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
    signal.signal(signal.SIGTERM, _interrupt)
    settings.load_env_file()


@main.command()
def up() -> None:
    """Start what is not running, apply database/, create the queue. Harmless if everything is running."""
    with _locked():
        written = settings.complete_env_file(os.environ)
        if written:
            click.echo(f".env: wrote {', '.join(written)}")
        settings.load_env_file()
        wanted = settings.read_settings(os.environ)
        server = Postgres(STATE.absolute(), wanted.postgres_port, wanted.admin_user, wanted.admin_password)
        queues = Emulator(STATE.absolute(), wanted.emulator_port)
        click.echo(f"PostgreSQL {postgres.major_version()} {'started' if postgres.start(server) else 'runs'} on 127.0.0.1:{server.port}")
        click.echo(f"SQS emulator {'started' if emulator.start(queues) else 'runs'} on 127.0.0.1:{queues.port}")
        _create_database(server, wanted.database)
        _migrate(os.environ)
        url = emulator.create_queue(queues, wanted.queue_name)
        click.echo(f"database/ applied to {wanted.database}; queue {url}, dead letters after {emulator.MAX_RECEIVE_COUNT} receives")
        settings.write_dbt_profile(os.environ)
        written = settings.keep_addresses(os.environ)
        if written:
            click.echo(f".env: wrote {', '.join(written)}, as in this shell")


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
        for folder in (STATE, DBT_ARTEFACTS, settings.DBT_LOGS):
            shutil.rmtree(folder, ignore_errors=True)
    click.echo("all data of the sandbox is gone")


@main.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, readable=False))
def seed(file: Path | None) -> None:
    r"""Send each line of FILE, verbatim, as one message to SQS_QUEUE_URL; without FILE, 1,000 sample events of the last four weeks.

    Only \n separates lines. Empty lines are skipped. Sending a file again creates new messages.
    """
    seeded = send_lines(file, login_queue.url(os.environ))
    skipped = f", {seeded.empty} empty lines skipped" if seeded.empty else ""
    click.echo(f"sent {seeded.sent:,} messages from {file or 'the sample'}{skipped}")
    if seeded.refused:
        named = ", ".join(map(str, seeded.refused[:LINES_NAMED])) + (", …" if len(seeded.refused) > LINES_NAMED else "")
        raise SandboxError(
            f"the queue refused {len(seeded.refused)} lines, and they were not sent: {named}; correct them and send them alone",
            os.EX_DATAERR,
        )


@main.command()
@click.argument("sql_text", metavar="SQL")
def query(sql_text: str) -> None:
    """Run SQL, one statement, as the role analyst and print its rows."""
    with connect("analyst", os.environ) as connection:
        print_query(connection, sql_text, wide_console())


@main.command()
def show() -> None:
    """Print what an analyst sees and where the messages are. If the last `dbt test` failed, name the tests and exit with 1."""
    console = wide_console()
    for role, queries in SHOWN.items():
        with connect(role, os.environ) as connection:
            for title, text in queries.items():
                print_query(connection, text, console, title)
    url = login_queue.url(os.environ)
    depth, dead = login_queue.depth(url), login_queue.depth(url + login_queue.DEAD_LETTER_SUFFIX)
    click.echo(f"queue: {depth} messages, dead-letter queue: {dead} messages")
    failed = failed_tests(DBT_ARTEFACTS)
    if failed:
        raise SandboxError(f"dbt test failed: {'; '.join(failed)}; the tables above show what there is", exit_code=1)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...]) -> NoReturn:
    """Run COMMAND with its own PostgreSQL (database/ applied) and queue on free ports, and delete both afterwards.

    Write COMMAND after `--`. This command exits with its exit code.
    """
    with tempfile.TemporaryDirectory(prefix="user-logins-") as name:
        directory = Path(name)
        with postgres.throwaway(directory, secrets.token_urlsafe()) as server, emulator.throwaway(directory) as queues:
            _create_database(server, "user_logins")
            environment = os.environ | {
                "PGHOST": "127.0.0.1",
                "PGPORT": str(server.port),
                "PGDATABASE": "user_logins",
                "PGSSLMODE": "prefer",
                "ADMIN_USER": server.user,
                "ADMIN_PASSWORD": server.password,
                **{f"{role}_PASSWORD": secrets.token_urlsafe() for role in LOGIN_ROLES},
                "AWS_ENDPOINT_URL": queues.endpoint_url,
                "AWS_DEFAULT_REGION": sqs.REGION,
                "AWS_ACCESS_KEY_ID": "sandbox",
                "AWS_SECRET_ACCESS_KEY": "sandbox",
                "SQS_QUEUE_URL": emulator.create_queue(queues, "login-queue"),
                "DBT_PROFILES_DIR": str(Path("dbt_project/profiles").absolute()),
            }
            _migrate(environment)
            try:
                code = subprocess.run(command, env=environment, check=False).returncode
            except OSError as error:
                raise SandboxError(f"{command[0]} cannot be run: {error.strerror}", os.EX_NOINPUT) from error
    raise click.exceptions.Exit(code)


SHOWN = {
    "analyst": {
        "analytics.user_logins, five of its rows": (
            "select user_id, device_type, masked_ip, masked_device_id, locale, app_version, create_date "
            "from analytics.user_logins order by create_date desc, masked_ip limit 5"
        ),
        "analytics.shared_ips: addresses seen more than once": "select * from analytics.shared_ips order by logins desc, masked_ip limit 5",
        "analytics.shared_devices: devices seen more than once": (
            "select * from analytics.shared_devices order by logins desc, masked_device_id limit 5"
        ),
        "analytics.daily_logins, the five most frequent rows": (
            "select * from analytics.daily_logins order by logins desc, create_date, dimension, dimension_value limit 5"
        ),
    },
    "transformer": {
        "Every message, as the pipeline counts them": (
            "select (select count(*) from staging.raw_logins) as landed, (select count(*) from marts.user_logins) as masked, "
            "(select count(*) from marts.rejected_logins) as rejected"
        ),
        "Why messages were rejected": (
            "select reasons, count(*) as messages from marts.rejected_logins group by reasons order by messages desc, reasons"
        ),
    },
}


def _migrate(environment: dict[str, str] | os._Environ[str]) -> None:
    """Apply database/, as production does. What it did is not said, what fails is."""
    migrate = subprocess.run([sys.executable, "-m", "loader", "migrate"], env=environment, stdout=subprocess.DEVNULL, check=False)
    if migrate.returncode != 0:
        raise click.exceptions.Exit(migrate.returncode)


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
        reason = refusal(error)
        if "authentication failed" not in reason:
            raise SandboxError(f"{reason}; see {server.log}") from error
        advice = "PostgreSQL's data was made with another ADMIN_USER or ADMIN_PASSWORD: restore them in .env, or run make clean"
        raise SandboxError(f"{reason}; {advice}", os.EX_NOPERM) from error


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Let one command at a time change the sandbox."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
