"""What stops the loader is one line that says what to do, an exit code, and no harm."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from os import EX_CONFIG, EX_NOPERM, EX_UNAVAILABLE
from pathlib import Path

import pytest

from benchmarks.stub import Stub
from tests.integration.conftest import Environment, silent
from tests.support import ROOT, Database, Queue, run


def refuse(environment: Environment, command: str = "drain") -> tuple[int, str]:
    """Run the loader's *command*, and return its exit code and the one line it wrote."""
    done = run(["python", "-m", "loader", command], environment, cwd=Path(environment.get("PWD", ROOT)), timeout_seconds=60)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stdout
    return done.returncode, lines[0]


@dataclass
class Case:
    """What is there, for a case to change; what it enters on the stack is undone at the end."""

    environment: Environment
    database: Database
    stack: contextlib.ExitStack

    def another_database(self, name: str) -> str:
        admin = self.stack.enter_context(self.database.server.connect())
        admin.execute(f"create database {name}".encode())
        self.stack.callback(admin.execute, f"drop database {name} with (force)".encode())
        return name

    def may_not_insert(self) -> Environment:
        with self.database.connect() as connection:
            connection.execute("revoke insert (body) on staging.raw_logins from loader")
        return {}


NO_DATABASE = 'database "nowhere" does not exist; ', "PGDATABASE"
UNREACHABLE = "cannot be reached: Unreachable: 127.0.0.1:1: ", "AWS_ENDPOINT_URL"
MIGRATE = "run python -m loader migrate"
NO_PASSWORD = "LOADER_PASSWORD is not set; set it, or run make up"
NO_QUEUE = "-not: QueueDoesNotExist: ", "; check SQS_QUEUE_URL and AWS_DEFAULT_REGION, or run make up"
WRONG_PASSWORD = "password authentication failed", "check LOADER_PASSWORD"
IMPATIENT = {"LOADER_TIMEOUT_SECONDS": "2"}
# What is changed, and with which exit code and words the commands end: drain, and what comes after a colon.
WRONG: dict[str, tuple[Callable[[Case], Environment], int, tuple[str, ...]]] = {
    "no password": (lambda _: {"LOADER_PASSWORD": ""}, EX_CONFIG, (NO_PASSWORD,)),
    "no queue": (lambda case: {"SQS_QUEUE_URL": case.environment["SQS_QUEUE_URL"] + "-not"}, EX_UNAVAILABLE, NO_QUEUE),
    "no port": (lambda _: {"AWS_ENDPOINT_URL": "http://127.0.0.1:many"}, EX_CONFIG, ("many", "AWS_ENDPOINT_URL")),
    "no SQS": (lambda _: {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, EX_UNAVAILABLE, UNREACHABLE),
    "something that is not SQS": (
        lambda case: {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{case.environment['PGPORT']}"} | IMPATIENT,
        EX_UNAVAILABLE,
        ("cannot be reached",),
    ),
    "no PostgreSQL": (lambda _: {"PGPORT": "1"}, EX_UNAVAILABLE, ("Connection refused", "PGHOST")),
    "a port that is none": (lambda _: {"PGPORT": "many"}, EX_UNAVAILABLE, ("many", "PGPORT")),
    "a port of another host": (lambda _: {"PGPORT": "1,2,3"}, EX_UNAVAILABLE, ("3 port", "PGPORT")),
    "a server that does not answer": (lambda case: {"PGPORT": case.stack.enter_context(silent())} | IMPATIENT, EX_UNAVAILABLE, ("PGHOST",)),
    "a wrong password": (lambda _: {"LOADER_PASSWORD": "wrong-and-secret"}, EX_NOPERM, WRONG_PASSWORD),
    "a wrong password: follow": (lambda _: {"LOADER_PASSWORD": "wrong-and-secret", "LOADER_HTTP_PORT": "0"}, EX_NOPERM, WRONG_PASSWORD),
    "no database": (lambda _: {"PGDATABASE": "nowhere"}, EX_NOPERM, NO_DATABASE),
    "no database: migrate": (lambda _: {"PGDATABASE": "nowhere"}, EX_NOPERM, NO_DATABASE),
    "a database without its tables": (lambda case: {"PGDATABASE": case.another_database("without_tables")}, EX_CONFIG, (MIGRATE,)),
    "a role that may not insert": (Case.may_not_insert, EX_NOPERM, ("permission denied",)),
    "a taken HTTP port: follow": (
        lambda case: {"LOADER_HTTP_PORT": case.stack.enter_context(silent())},
        EX_CONFIG,
        ("LOADER_HTTP_PORT: cannot listen",),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_it_says_what_is_wrong_and_leaves_the_queue_as_it_was(
    environment: Environment, database: Database, queue: Queue, name: str
) -> None:
    change, exit_code, words = WRONG[name]
    queue.send("stays")
    with contextlib.ExitStack() as stack:
        code, line = refuse(environment | change(Case(environment, database, stack)), name.partition(": ")[2] or "drain")
    assert code == exit_code, line
    assert [word for word in words if word not in line] == [], line
    assert "wrong-and-secret" not in line
    assert queue.depth() == 1


def test_all_missing_variables_are_named_at_once(tmp_path: Path) -> None:
    """Each is tried out one by one on `loader.settings.read`. No .env in the working directory can add to them."""
    nowhere = {"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true"}
    nothing = nowhere | {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PWD": str(tmp_path)}
    code, line = refuse(nothing | {"LOADER_RECEIVERS": "many"})
    assert code == EX_CONFIG
    assert line.startswith("LOADER_RECEIVERS is 'many': ")
    needed = "PGHOST, SQS_QUEUE_URL, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
    assert line.endswith(f"{needed} are not set; see .env.example, or run make up, which writes .env")
    assert run(["python", "-m", "loader", "fly"], nothing).returncode == 2


@pytest.mark.parametrize("action", ["DeleteMessageBatch", "ChangeMessageVisibilityBatch", "GetQueueAttributes", "ReceiveMessage"])
def test_a_loader_that_may_not_do_all_that_it_must_receives_nothing(environment: Environment, stub: Stub, action: str) -> None:
    stub.preload(10)
    stub.control(denied=[action])
    code, line = refuse(environment | stub.environment)
    assert (code, "AccessDenied" in line) == (EX_NOPERM, True)
    assert stub.stats().get("handed out", 0) == 0
