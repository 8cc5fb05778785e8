"""What stops the loader is one line that says what to do, an exit code, and no harm."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.stub import Stub
from sandbox.processes import free_port
from tests.support import ROOT, Database, Queue, run

Environment = dict[str, str]
KEYS = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
NOWHERE = {"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}


def refuse(environment: Environment, command: str = "drain") -> tuple[int, str]:
    """Run the loader's *command*, and return its exit code and the one line it wrote."""
    done = run(["python", "-m", "loader", command], environment, cwd=Path(environment.get("PWD", ROOT)), timeout_seconds=60)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stdout
    return done.returncode, lines[0]


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The port of a server that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


def test_all_missing_variables_are_named_at_once(tmp_path: Path) -> None:
    """Each is tried out one by one on `loader.settings.read`. No .env in the working directory can add to them."""
    nothing = NOWHERE | {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PWD": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    code, line = refuse(nothing | {"LOADER_RECEIVERS": "many"})
    assert code == os.EX_CONFIG
    assert line.startswith("LOADER_RECEIVERS is 'many': ")
    needed = ["SQS_QUEUE_URL", "PGHOST", "AWS_DEFAULT_REGION", *KEYS]
    assert line.endswith(f"{', '.join(needed)} are not set; copy .env.example to .env or run make up")
    assert run(["python", "-m", "loader", "fly"], nothing).returncode == 2


WRONG: dict[str, tuple[Callable[[Environment], Environment], int, list[str]]] = {
    "no password": (
        lambda _: {"LOADER_PASSWORD": ""},
        os.EX_CONFIG,
        ["LOADER_PASSWORD is not set; copy .env.example to .env"],
    ),
    "no queue": (
        lambda environment: {"SQS_QUEUE_URL": environment["SQS_QUEUE_URL"] + "-not"},
        os.EX_UNAVAILABLE,
        ["-not: QueueDoesNotExist: ", "; check SQS_QUEUE_URL and AWS_DEFAULT_REGION, or run make up"],
    ),
    "no port": (lambda _: {"AWS_ENDPOINT_URL": "http://127.0.0.1:many"}, os.EX_CONFIG, ["many", "AWS_ENDPOINT_URL"]),
    "no SQS": (
        lambda _: {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"},
        os.EX_UNAVAILABLE,
        ["cannot be reached", "AWS_ENDPOINT_URL"],
    ),
    "something that is not SQS": (
        lambda environment: {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{environment['PGPORT']}", "LOADER_TIMEOUT_SECONDS": "2"},
        os.EX_UNAVAILABLE,
        ["cannot be reached"],
    ),
    "no PostgreSQL": (lambda _: {"PGPORT": str(free_port())}, os.EX_UNAVAILABLE, ["Connection refused"]),
    "a wrong password": (
        lambda _: {"LOADER_PASSWORD": "wrong-and-secret"},
        os.EX_NOPERM,
        ["password authentication failed", "check LOADER_PASSWORD"],
    ),
    "no database": (lambda _: {"PGDATABASE": "certificates"}, os.EX_NOPERM, ['database "certificates" does not exist; ', "PGDATABASE"]),
}


@pytest.mark.parametrize(("change", "exit_code", "words"), WRONG.values(), ids=WRONG)
def test_it_says_what_is_wrong_and_leaves_the_queue_as_it_was(
    environment: Environment, queue: Queue, change: Callable[[Environment], Environment], exit_code: int, words: list[str]
) -> None:
    queue.send("stays")
    code, line = refuse(environment | change(environment))
    assert code == exit_code, line
    for word in words:
        assert word in line
    assert "wrong-and-secret" not in line
    assert queue.depth() == 1


def test_follow_and_migrate_say_it_as_drain_does(environment: Environment) -> None:
    code, line = refuse(environment | {"LOADER_PASSWORD": "wrong-and-secret", "LOADER_HTTP_PORT": "0"}, "follow")
    assert (code, "password authentication failed" in line) == (os.EX_NOPERM, True)
    code, line = refuse(environment | {"PGDATABASE": "nowhere"}, "migrate")
    assert (code, 'database "nowhere" does not exist; ' in line) == (os.EX_NOPERM, True)


def test_a_server_that_does_not_answer(environment: Environment) -> None:
    with silent() as port:
        code, line = refuse(environment | {"PGPORT": port, "LOADER_TIMEOUT_SECONDS": "2"})
    assert code == os.EX_UNAVAILABLE
    assert "PGHOST" in line


@pytest.mark.parametrize("action", ["DeleteMessageBatch", "ChangeMessageVisibilityBatch", "GetQueueAttributes", "ReceiveMessage"])
def test_a_loader_that_may_not_do_all_that_it_must_receives_nothing(environment: Environment, stub: Stub, action: str) -> None:
    stub.preload(10)
    stub.control(denied=[action])
    code, line = refuse(environment | stub.environment)
    assert code == os.EX_NOPERM
    assert "AccessDenied" in line
    assert stub.stats().get("handed out", 0) == 0


def test_a_database_without_its_tables(environment: Environment, empty_database: Database, queue: Queue) -> None:
    queue.send("stays")
    code, line = refuse(environment | {"PGDATABASE": empty_database.name})
    assert code == os.EX_CONFIG
    assert "run python -m loader migrate" in line
    assert queue.depth() == 1


def test_a_role_that_may_not_insert(environment: Environment, database: Database, queue: Queue) -> None:
    queue.send("stays")
    with database.connect() as connection:
        connection.execute("revoke insert (message_id, sent_at, body, attributes) on staging.raw_logins from loader")
    code, line = refuse(environment)
    assert code == os.EX_NOPERM
    assert "permission denied" in line
    assert queue.depth() == 1


def test_the_right_to_insert_taken_away_while_it_runs(environment: Environment, database: Database, stub: Stub) -> None:
    stub.preload(5_000)
    stub.control(round_trip=0.05)
    with database.connect() as connection:
        connection.execute("""
            create function staging.take_away() returns trigger language plpgsql security definer as $$
            begin
                revoke insert (message_id, sent_at, body, attributes) on staging.raw_logins from loader;
                return null;
            end $$
        """)
        connection.execute(
            "create trigger take_away after insert on staging.raw_logins referencing new table as added "
            "for each statement execute function staging.take_away()"
        )
    code, line = refuse(environment | stub.environment)
    assert code == os.EX_NOPERM
    assert "permission denied" in line
    stats = stub.stats()
    assert stats["left"] == 5_000 - database.value("select count(*) from staging.raw_logins") > 0
    assert stats["in flight"] == 0
    assert stats["released"] > 0


def test_a_taken_http_port(environment: Environment) -> None:
    with silent() as port:
        code, line = refuse(environment | {"LOADER_HTTP_PORT": port}, "follow")
    assert code == os.EX_CONFIG
    assert line.startswith(f"LOADER_HTTP_PORT: cannot listen on 127.0.0.1:{port}")


def test_a_database_in_another_encoding_than_the_messages(environment: Environment, database: Database, queue: Queue) -> None:
    queue.send("日本")
    name = f"{database.name}_latin1"
    with database.server.connect() as connection:
        connection.execute(f"create database {name} encoding 'LATIN1' locale_provider libc locale 'C' template template0".encode())
        try:
            code, line = refuse(environment | {"PGDATABASE": name})
        finally:
            connection.execute(f"drop database {name} with (force)".encode())
    assert code == os.EX_CONFIG
    assert "LATIN1" in line
    assert queue.depth() == 1
