"""What stops the loader is one line that says what to do, an exit code, and no harm."""

import os
import socket
from pathlib import Path

import pytest

from benchmarks.stub import Stub
from sandbox import emulator
from sandbox.processes import free_port
from tests.support import ROOT, Database, Queue, run

Environment = dict[str, str]


def refuse(environment: Environment, command: str = "drain") -> tuple[int, str]:
    """Run the loader's *command*, and return its exit code and the one line it wrote."""
    done = run(["python", "-m", "loader", command], environment, cwd=Path(environment.get("PWD", ROOT)), timeout_seconds=60)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stdout
    return done.returncode, lines[0]


@pytest.fixture
def no_servers(tmp_path: Path) -> Environment:
    """Every variable that is needed, for tests that never come to use them; no .env in the working directory can add to them."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PWD": str(tmp_path),
        "PGHOST": "127.0.0.1",
        "PGPORT": "1",
        "LOADER_PASSWORD": "unused",
        "SQS_QUEUE_URL": "http://127.0.0.1:1/000000000000/login-queue",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "unused",
        "AWS_SECRET_ACCESS_KEY": "unused",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.mark.parametrize("variable", ["SQS_QUEUE_URL", "PGHOST"])
@pytest.mark.parametrize("value", [None, ""], ids=["missing", "empty"])
def test_a_missing_variable_is_named(no_servers: Environment, variable: str, value: str | None) -> None:
    del no_servers[variable]
    environment = no_servers | ({} if value is None else {variable: value})
    assert refuse(environment) == (os.EX_CONFIG, f"{variable} is not set; copy .env.example to .env or run make up")


def test_all_missing_variables_are_named_at_once(no_servers: Environment) -> None:
    needed = ["SQS_QUEUE_URL", "PGHOST", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    code, line = refuse({name: value for name, value in no_servers.items() if name not in needed} | {"LOADER_RECEIVERS": "many"})
    assert code == os.EX_CONFIG
    assert line.startswith("LOADER_RECEIVERS is 'many': ")
    assert line.endswith(f"{', '.join(needed)} are not set; copy .env.example to .env or run make up")


def test_a_missing_password_is_named(environment: Environment) -> None:
    variable = "LOADER_PASSWORD"
    environment[variable] = ""
    assert refuse(environment) == (os.EX_CONFIG, f"{variable} is not set; copy .env.example to .env or run make up")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LOADER_RECEIVERS", "many"),
        ("LOADER_RECEIVERS", "0"),
        ("LOADER_BATCH_SECONDS", "-1"),
        ("LOADER_MAX_HELD_MESSAGES", "9"),
        ("LOADER_GRACE_SECONDS", "5"),
        ("PGPORT", "many"),
        ("PGPORT", "70000"),
        ("LOADER_HTTP_PORT", "70000"),
        ("SQS_QUEUE_URL", "login-queue"),
    ],
)
def test_a_wrong_variable_is_named_with_what_was_found(no_servers: Environment, variable: str, value: str) -> None:
    code, line = refuse(no_servers | {variable: value})
    assert code == os.EX_CONFIG
    assert line.startswith(f"{variable} is '{value}': ")


def test_a_missing_region_is_named(environment: Environment) -> None:
    del environment["AWS_DEFAULT_REGION"]
    code, line = refuse(environment | {"AWS_CONFIG_FILE": "/nonexistent"})
    assert code == os.EX_CONFIG
    assert line.startswith("AWS_DEFAULT_REGION is not set")


def test_the_other_spelling_of_the_region_will_do(environment: Environment) -> None:
    del environment["AWS_DEFAULT_REGION"]
    assert run(["python", "-m", "loader", "drain"], environment | {"AWS_REGION": "us-east-1"}).returncode == 0


def test_missing_credentials_are_named(environment: Environment) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del environment[variable]
    nowhere = {"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}
    code, line = refuse(environment | nowhere)
    assert code == os.EX_CONFIG
    assert "AWS_ACCESS_KEY_ID" in line


def test_a_queue_that_is_not_there(environment: Environment) -> None:
    code, line = refuse(environment | {"SQS_QUEUE_URL": environment["SQS_QUEUE_URL"] + "-not"})
    assert code == os.EX_UNAVAILABLE
    assert "-not: QueueDoesNotExist: " in line
    assert "; check SQS_QUEUE_URL and AWS_DEFAULT_REGION, or run make up" in line


def test_an_endpoint_whose_port_is_no_number(environment: Environment) -> None:
    code, line = refuse(environment | {"AWS_ENDPOINT_URL": "http://127.0.0.1:many"})
    assert code == os.EX_CONFIG
    assert "many" in line
    assert "AWS_ENDPOINT_URL" in line


def test_an_sqs_that_does_not_answer(environment: Environment) -> None:
    code, line = refuse(environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"})
    assert code == os.EX_UNAVAILABLE
    assert "cannot be reached" in line
    assert "AWS_ENDPOINT_URL" in line


def test_something_that_is_not_sqs(environment: Environment, database: Database) -> None:
    code, line = refuse(environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{database.server.port}", "LOADER_TIMEOUT_SECONDS": "2"})
    assert code == os.EX_UNAVAILABLE
    assert "cannot be reached" in line


@pytest.mark.parametrize("action", ["DeleteMessageBatch", "ChangeMessageVisibilityBatch", "GetQueueAttributes"])
def test_a_loader_that_may_not_delete_or_extend_receives_nothing(environment: Environment, stub: Stub, action: str) -> None:
    stub.preload(10)
    stub.control(denied=[action])
    code, line = refuse(environment | stub.environment)
    assert code == os.EX_NOPERM
    assert "AccessDenied" in line
    assert "ReceiveMessage" not in stub.stats()


def test_a_loader_that_may_not_receive(environment: Environment, stub: Stub) -> None:
    stub.control(denied=["ReceiveMessage"])
    code, line = refuse(environment | stub.environment)
    assert code == os.EX_NOPERM
    assert "AccessDenied" in line


def test_a_queue_that_hides_nothing_by_itself_is_drained(environment: Environment, queue: Queue) -> None:
    url = emulator.create_queue(queue.emulator, "hides-nothing", visibility_timeout_seconds=0)
    Queue(queue.emulator, url).send("one")
    assert run(["python", "-m", "loader", "drain"], environment | {"SQS_QUEUE_URL": url}).returncode == 0
    assert queue.depth(url) == 0


def test_a_server_that_is_down(environment: Environment, queue: Queue) -> None:
    queue.send("stays")
    code, line = refuse(environment | {"PGPORT": str(free_port())})
    assert code == os.EX_UNAVAILABLE
    assert "Connection refused" in line
    assert queue.depth() == 1


def test_a_server_that_does_not_answer(environment: Environment) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        code, line = refuse(environment | {"PGPORT": str(silent.getsockname()[1]), "LOADER_TIMEOUT_SECONDS": "2"})
    assert code == os.EX_UNAVAILABLE
    assert "PGHOST" in line


@pytest.mark.parametrize("command", ["drain", "follow"])
def test_a_refused_password(environment: Environment, queue: Queue, command: str) -> None:
    queue.send("stays")
    code, line = refuse(environment | {"LOADER_PASSWORD": "wrong-and-secret", "LOADER_HTTP_PORT": "0"}, command)
    assert code == os.EX_NOPERM
    assert "password authentication failed" in line
    assert "LOADER_PASSWORD" in line
    assert "wrong-and-secret" not in line
    assert queue.depth() == 1


@pytest.mark.parametrize("command", ["drain", "migrate"])
@pytest.mark.parametrize("name", ["nowhere", "certificates", "sslmode"])
def test_a_database_that_is_not_there(environment: Environment, command: str, name: str) -> None:
    code, line = refuse(environment | {"PGDATABASE": name}, command)
    assert code == os.EX_NOPERM
    assert f'database "{name}" does not exist; ' in line
    assert "PGDATABASE" in line


def test_migrate_names_a_wrong_port(no_servers: Environment) -> None:
    code, line = refuse(no_servers | {"PGPORT": "many"}, "migrate")
    assert code == os.EX_CONFIG
    assert line.startswith("PGPORT is 'many': ")


def test_there_may_be_a_port_for_each_host(environment: Environment) -> None:
    hosts = {"PGHOST": "127.0.0.1,127.0.0.1", "PGPORT": f"{free_port()},{environment['PGPORT']}"}
    assert run(["python", "-m", "loader", "drain"], environment | hosts).returncode == 0


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
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, line = refuse(environment | {"LOADER_HTTP_PORT": str(port)}, "follow")
    assert code == os.EX_CONFIG
    assert line.startswith(f"LOADER_HTTP_PORT: cannot listen on 127.0.0.1:{port}")


def test_an_unknown_command_is_a_usage_error(no_servers: Environment) -> None:
    assert run(["python", "-m", "loader", "fly"], no_servers).returncode == 2


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
