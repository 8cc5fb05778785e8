"""What a test is handed: a migrated database of its own, a queue of its own, and commands that run on them."""

import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from dotenv import dotenv_values
from psycopg import sql

from loader.delivery import storable
from loader.settings import LOGIN_ROLES
from sandbox.emulator import DEAD_LETTER_SUFFIX, Emulator
from sandbox.postgres import Postgres
from sandbox.sqs import REGION
from tests import forks
from tests.managed import Managed

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

forks.preload("tests.preloaded")

ROOT = Path(__file__).parent.parent
DATABASE_FILES = ROOT / "database"
# what an analyst may read, in schema analytics; the last is about messages and has no row of a person
VIEWS = (
    "bursts",
    "daily_devices",
    "daily_logins",
    "freshness",
    "impossible_travel",
    "shared_devices",
    "shared_ips",
    "user_activity",
    "user_logins",
    "version_sessions",
    "daily_reconciliation",
)
REAL_EVENTS = ROOT.parent / "shared" / "data" / "login_queue.jsonl"


@dataclass(frozen=True)
class Database:
    """One database with `database/` applied, and the passwords of the roles that may log in."""

    server: Postgres
    name: str
    passwords: Mapping[str, str]

    def connect(self, role: str | None = None, *, autocommit: bool = True) -> psycopg.Connection[Any]:
        """Connect as *role* with its password, or as the server's superuser; to be used in a `with`."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.server.port,
            dbname=self.name,
            user=role or self.server.user,
            password=self.passwords[role] if role else self.server.password,
            autocommit=autocommit,
            connect_timeout=10,
        )

    def administer(self) -> psycopg.Connection[Any]:
        """Connect as whoever runs migrate: the superuser, or, on a managed server, an administrator who is none."""
        return administrator(self.server).connect(self.name)

    def rows(self, query: str, role: str | None = None) -> list[tuple[Any, ...]]:
        """All rows of *query* as *role*, on a connection of its own."""
        with self.connect(role) as connection:
            return connection.execute(query.encode()).fetchall()

    def execute(self, *statements: str, role: str | None = None) -> None:
        """Execute each statement, in a transaction for each, as *role*."""
        with self.connect(role) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def value(self, query: str, role: str | None = None) -> Any:
        """The first column of the first row of *query*."""
        return self.rows(query, role)[0][0]


@dataclass(frozen=True)
class Queue:
    """One empty queue with its dead-letter queue."""

    emulator: Emulator
    url: str

    @property
    def dead_letter_url(self) -> str:
        """Where messages go that were received too often."""
        return self.url + DEAD_LETTER_SUFFIX

    @property
    def client(self) -> "SQSClient":
        """A boto3 client of the emulator."""
        return self.emulator.client()

    def send(self, *bodies: str) -> list[str]:
        """Send each body as one message and return the MessageIds in their order."""
        client = self.client
        return [client.send_message(QueueUrl=self.url, MessageBody=body)["MessageId"] for body in bodies]

    def depth(self, url: str | None = None) -> int:
        """How many messages the queue (or the one at *url*) holds, those in flight and delayed ones included."""
        attributes = self.client.get_queue_attributes(QueueUrl=url or self.url, AttributeNames=["All"])["Attributes"]
        return sum(int(value) for name, value in attributes.items() if name.startswith("ApproximateNumberOfMessages"))


@dataclass(frozen=True)
class Clone:
    """A copy of the working tree whose `.env` names free ports."""

    path: Path

    def make(self, *words: str, timeout_seconds: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `make WORDS…` as a person would, with *environment* added."""
        return self.run("make", *words, timeout_seconds=timeout_seconds, **environment)

    def run(self, *command: str, timeout_seconds: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run *command* in the clone with its `.venv` activated."""
        return subprocess.run(
            command, cwd=self.path, env=self.environment | environment, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )

    @property
    def environment(self) -> dict[str, str]:
        """An environment with the clone's `.venv` activated, that says nothing of any server."""
        return inherited() | {"PATH": f"{self.path / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    @property
    def settings(self) -> dict[str, str]:
        """What `.env` says."""
        return {name: value or "" for name, value in dotenv_values(self.path / ".env").items()}

    @property
    def queue(self) -> Queue:
        """The clone's login queue."""
        emulator = Emulator(self.path / ".sandbox", int(self.settings["AWS_ENDPOINT_URL"].rsplit(":", 1)[1]))
        return Queue(emulator, emulator.queue_url("login-queue"))

    def connect(self, role: str | None = None) -> psycopg.Connection[Any]:
        """Connect to the clone's database as *role*, or as its superuser."""
        settings = self.settings
        server = Postgres(self.path / ".sandbox", int(settings["PGPORT"]), settings["ADMIN_USER"], settings["ADMIN_PASSWORD"])
        passwords = {role: settings[f"{role.upper()}_PASSWORD"] for role in LOGIN_ROLES}
        return Database(server, settings["PGDATABASE"], passwords).connect(role)


def administrator(server: Postgres) -> Postgres:
    """The same server, as whoever runs migrate has it."""
    return server.administrator if isinstance(server, Managed) else server


def create_copy(server: Postgres, name: str, template: str) -> None:
    """Create the database *name* as *template* is. Copying its files is several times as fast as writing them to the WAL."""
    with administrator(server).connect() as connection:
        statement = sql.SQL("create database {} template {} strategy file_copy")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))


@contextlib.contextmanager
def copied(server: Postgres, passwords: Mapping[str, str], name: str, template: str) -> Iterator[Database]:
    """The database *name*, as *template* is, dropped at the end."""
    create_copy(server, name, template)
    database = Database(server, name, passwords)
    try:
        # who may connect stands on the database itself, and a copy does not inherit it
        with database.administer() as connection:
            connection.execute((DATABASE_FILES / "7_privileges.sql").read_bytes())
        yield database
    finally:
        with server.connect() as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def inherited() -> dict[str, str]:
    """This process's variables but those that steer the project, its servers and its tools."""
    steering = ("PG", "AWS_", "DBT_", "LOADER_", "SQS_", "ADMIN_", "MAKE", "PYTEST_")
    return {name: value for name, value in os.environ.items() if not name.startswith(steering)}


def environment(database: Database, queue: Queue | None = None, outputs: Path | None = None) -> dict[str, str]:
    """The variables that make the loader, dbt, recovery and the sandbox's commands work on *database* and *queue*, and no others of theirs.

    dbt's artefacts and its log go to the folder *outputs*.
    """
    variables = inherited() | {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(database.server.port),
        "PGDATABASE": database.name,
        **{f"{role.upper()}_PASSWORD": password for role, password in database.passwords.items()},
        "DBT_PROFILES_DIR": str(ROOT / "dbt_project" / "profiles"),
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "default",
    }
    if outputs:
        variables |= {"DBT_TARGET_PATH": str(outputs / "target"), "DBT_LOG_PATH": str(outputs / "logs")}
    if queue:
        variables |= {
            "ADMIN_USER": administrator(database.server).user,
            "ADMIN_PASSWORD": database.server.password,
            "AWS_ENDPOINT_URL": queue.emulator.endpoint_url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "sandbox",
            "AWS_SECRET_ACCESS_KEY": "sandbox",
            "AWS_EC2_METADATA_DISABLED": "true",
            "SQS_QUEUE_URL": queue.url,
        }
    return variables


def key_blocks(database: Database) -> list[bytes]:
    """Both blocks of every masking key."""
    return [block for row in database.rows("select inner_block, outer_block from masking.keys") for block in row]


def readable(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """The text of every row of every relation that this connection may read, those of the catalog included."""
    relations = connection.execute(
        "select oid::regclass::text from pg_class where relkind in ('r', 'v', 'm', 'p', 'f', 'S') and has_table_privilege(oid, 'select') "
        "and relname !~ '_numa$'"  # raise where the machine has no NUMA
    ).fetchall()
    texts = {}
    for (relation,) in relations:
        rows = connection.execute(f"select row(it.*)::text from {relation} as it".encode()).fetchall()
        texts[relation] = "\n".join(text or "" for (text,) in rows)
    return texts


def land(database: Database, bodies: Iterable[str]) -> list[str]:
    """Land *bodies*, sent now, with the loader's rights and without a queue; returns their message ids in order."""
    messages = {str(uuid.uuid4()): body for body in bodies}
    land_messages(database, messages)
    return list(messages)


def land_messages(database: Database, messages: Mapping[str, str], sent_at: dt.datetime | None = None) -> None:
    """Land *messages*, bodies by message id, sent at *sent_at* (now), as the loader does: by COPY, which is not logged, and on the list."""
    sent_at = sent_at or dt.datetime.now(dt.UTC)
    with database.connect("loader") as connection, connection.cursor() as cursor:
        cursor.execute("select staging.ensure_partitions(%s)", [[sent_at.astimezone(dt.UTC).date()]])
        with connection.transaction():
            cursor.execute("create temp table incoming (message_id text, sent_at timestamptz, body text) on commit drop")
            with cursor.copy("copy incoming from stdin (format binary)") as copy:
                copy.set_types(("text", "timestamptz", "text"))
                for message_id, body in messages.items():
                    copy.write_row((message_id, sent_at, storable(body).decode()))
            cursor.execute("insert into staging.raw_logins (message_id, sent_at, body) select * from incoming")
            cursor.execute(
                "insert into staging.unjudged (message_id, sent_at, is_wrapped) "
                "select message_id, sent_at, staging.body_is_wrapped(body) from incoming"
            )


def start_dbt(words: list[str], environ: Mapping[str, str], outputs: Path, project: Path = ROOT / "dbt_project") -> ForkServerProcess:
    """Start `dbt WORDS…`; what it prints goes to *outputs*/output, its artefacts and its log beside it."""
    outputs.mkdir(parents=True, exist_ok=True)
    folders = {"DBT_TARGET_PATH": str(outputs / "target"), "DBT_LOG_PATH": str(outputs / "logs")}
    return forks.start(forks.dbt, {**environ, **folders}, outputs / "output", words, project)


def dbt(database: Database, words: list[str], outputs: Path, project: Path = ROOT / "dbt_project") -> subprocess.CompletedProcess[str]:
    """Run dbt on *database*; its artefacts and its log go to the folder *outputs*."""
    (outputs / "output").unlink(missing_ok=True)
    process = start_dbt(words, environment(database), outputs, project)
    code = ended(process)
    return subprocess.CompletedProcess(words, code, (outputs / "output").read_text(), "")


def ended(process: ForkServerProcess, timeout_seconds: float = 240) -> int:
    """Wait for *process*, and return its exit code; kill it when it takes longer than *timeout_seconds*."""
    process.join(timeout_seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise subprocess.TimeoutExpired(process.name, timeout_seconds)
    return process.exitcode


def run(
    command: list[str], environ: Mapping[str, str], cwd: Path = ROOT, timeout_seconds: float = 120, stdin: str | bytes = ""
) -> subprocess.CompletedProcess[str]:
    """Run *command* to its end and return its output and exit code; one of ours, `python -m loader` for example, is forked."""
    if command[:2] != ["python", "-m"] or command[2] not in {"loader", "transform", "recovery", "sandbox"}:
        words = [sys.executable if word == "python" else word for word in command]
        return subprocess.run(words, env=environ, cwd=cwd, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    with tempfile.TemporaryDirectory() as folder:
        given, output, errors = (Path(folder) / name for name in ("stdin", "stdout", "stderr"))
        given.write_bytes(stdin.encode() if isinstance(stdin, str) else stdin)
        process = forks.start(forks.command, environ, output, command[2], command[3:], cwd, errors=errors, stdin=given)
        code = ended(process, timeout_seconds)
        return subprocess.CompletedProcess(command, code, output.read_text(), errors.read_text())


@dataclass
class Running:
    """A command of ours that was started, and the file that it prints to."""

    process: ForkServerProcess
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines of JSON that it has printed."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid or 0, number)

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        return ended(self.process, 120)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it with the signal, and return its exit code."""
        self.send(number)
        return self.wait()


@contextlib.contextmanager
def running(
    command: str, environ: Mapping[str, str], log: Path, cwd: Path = ROOT, start: Callable[[str, list[str], Path], None] = forks.command
) -> Iterator[Running]:
    """`python -m COMMAND`, until the end of the `with` at the latest; *start* runs it in the process that is forked."""
    log.touch()
    module, *words = command.split()
    started = Running(forks.start(start, environ, log, module, words, cwd), log)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.join()
