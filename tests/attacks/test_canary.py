"""A personal value goes through a load, a migration, a dbt run and a dbt test that fail on purpose, and is in no log,
artefact, metric, error or statistics view afterwards.

The server logs all that PostgreSQL can log, for a server that is managed by others may, and the roles' own log settings,
which only a superuser can make, are off.
"""

import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

import loader.migrate
from loader.migrate import MigrationError, migrate
from sandbox import postgres, processes
from tests import canaries, support
from tests.support import DATABASE_FILES, ROOT, Database, Queue

TALKATIVE = {
    "log_min_messages": "notice",
    "log_min_error_statement": "notice",
    "log_error_verbosity": "verbose",
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_parameter_max_length": "-1",
    "log_parameter_max_length_on_error": "-1",
    "shared_preload_libraries": "pg_stat_statements,auto_explain",
    "pg_stat_statements.track": "all",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_verbose": "on",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_parameter_max_length": "-1",
}
WAIT_SECONDS = 60
# an error prints the first 64 bytes of a column
SHORT = f"{canaries.DEVICE_ID} from {canaries.IPV4}"


@dataclass
class Talkative:
    """A database whose server logs everything, and how much of that log was there before."""

    database: Database
    read_characters: int = 0

    def mark(self) -> None:
        """Let what is logged from here on be what counts."""
        self.read_characters = len(self.database.server.log.read_text(errors="replace"))

    def logged(self) -> str:
        """What the server logged since the mark."""
        return self.database.server.log.read_text(errors="replace")[self.read_characters :]

    def assert_nothing_leaked(self, *outputs: str, folder: Path | None = None) -> None:
        """No canary in *outputs*, in the files under *folder*, in the server's log; no key there; none in what the server counts."""
        assert len(self.logged()) > 1_000  # it does log
        for output in (*outputs, self.logged()):
            assert not canaries.found_in(output)
        assert not canaries.keys_found_in(self.logged(), support.key_blocks(self.database))
        assert folder is None or not canaries.found_under(folder)
        with self.database.connect() as connection:
            texts = support.readable(connection)
        assert "pg_stat_statements" in texts
        assert not [name for name, text in texts.items() if not name.startswith("staging.") and canaries.found_in(text)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, passwords: Mapping[str, str]) -> Iterator[Database]:
    directory = tmp_path_factory.mktemp("talkative")
    server = postgres.Postgres(directory, processes.free_port(), "postgres", "talkative")
    try:
        postgres.start(server, postgres.SETTINGS | postgres.THROWAWAY_SETTINGS | TALKATIVE)
        yield Database(server, "postgres", passwords)
    finally:
        postgres.stop(server)


@pytest.fixture
def talkative(server: Database, request: pytest.FixtureRequest) -> Iterator[Talkative]:
    """A migrated database of the test's own."""
    name = f"canary_{abs(hash(request.node.name))}"
    with server.connect() as connection:
        connection.execute(f"create database {name}".encode())
    database = Database(server.server, name, server.passwords)
    with database.connect() as connection:
        migrate(connection, DATABASE_FILES, server.passwords)
        connection.execute("create extension pg_stat_statements; select pg_stat_statements_reset()")
        for role in server.passwords:
            connection.execute(f"alter role {role} reset all".encode())
    made = Talkative(database)
    made.mark()
    yield made
    with server.connect() as connection:
        connection.execute(f"drop database {name} with (force)".encode())


def land_quietly(database: Database, *bodies: str) -> None:
    """Land *bodies* as the loader does, by COPY; `support.land` has them in parameters, which are logged."""
    with database.connect("loader") as connection, connection.cursor() as cursor:
        cursor.execute("select staging.ensure_partitions(array[(now() at time zone 'UTC')::date])")
        cursor.execute("create temp table incoming (message_id text, body text)")
        with cursor.copy("copy incoming from stdin (format binary)") as copy:
            copy.set_types(("text", "text"))
            for number, body in enumerate(bodies):
                copy.write_row((f"message {number}", body))
        cursor.execute("insert into staging.raw_logins (message_id, sent_at, body) select message_id, now(), body from incoming")


def test_canary_in_a_load_that_fails(talkative: Talkative, queue: Queue) -> None:
    """A constraint refuses the row, in the one place whose error prints it."""
    environ = support.environment(talkative.database, queue)
    with talkative.database.connect() as connection:
        connection.execute("select staging.ensure_partitions(array[current_date - 1, current_date, current_date + 1])")
        connection.execute("alter table staging.raw_logins add constraint short check (length(body) < 10)")
    talkative.mark()
    queue.send(SHORT)
    failed = support.run(["python", "-m", "loader", "drain"], environ)
    assert failed.returncode not in {0, -signal.SIGTERM}, failed.stdout
    assert 'violates check constraint "short"' in talkative.logged()
    talkative.assert_nothing_leaked(failed.stdout, failed.stderr)

    with talkative.database.connect() as connection:
        connection.execute("alter table staging.raw_logins disable row level security")
    queue.send(SHORT)
    support.run(["python", "-m", "loader", "drain"], environ)
    assert canaries.found_in(talkative.logged())


def test_canary_in_a_load_and_its_metrics(talkative: Talkative, queue: Queue) -> None:
    port = processes.free_port()
    environ = support.environment(talkative.database, queue) | {"LOADER_HTTP_PORT": str(port)}
    talkative.mark()
    queue.send(canaries.login(), canaries.login()[:-1])
    follow = subprocess.Popen(
        [sys.executable, "-m", "loader", "follow"], env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while talkative.database.value("select count(*) from staging.raw_logins") < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            metrics = response.read().decode()
    finally:
        follow.send_signal(signal.SIGTERM)
        output, _ = follow.communicate(timeout=WAIT_SECONDS)
    assert "landed" in metrics
    talkative.assert_nothing_leaked(output, metrics)

    # an INSERT has its values in parameters, and the server logs those
    support.land(talkative.database, [canaries.login()])
    assert canaries.found_in(talkative.logged())


def test_canary_in_a_migration_that_fails(talkative: Talkative, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file casts what is in staging, and the error quotes the value."""
    land_quietly(talkative.database, canaries.NO_ADDRESS)
    files = shutil.copytree(DATABASE_FILES, tmp_path / "database")
    (files / "7_broken.sql").write_text("select body::inet from staging.raw_logins;")

    def fail() -> MigrationError:
        talkative.mark()
        with talkative.database.connect() as connection, pytest.raises(MigrationError) as failure:
            migrate(connection, files, {})
        return failure.value

    error = fail()
    assert str(error) == "database/7_broken.sql was refused: SQLSTATE 22P02; nothing was changed"
    assert isinstance(error.__cause__, psycopg.Error)
    assert canaries.found_in(str(error.__cause__))  # the server did tell us
    talkative.assert_nothing_leaked(str(error))

    monkeypatch.setattr(loader.migrate, "QUIET", "select 1")
    fail()
    assert canaries.found_in(talkative.logged())


def test_canary_in_a_dbt_run_that_fails(talkative: Talkative, tmp_path: Path) -> None:
    """It fails in the middle of the masking, for the key of a domain is gone."""
    database = talkative.database
    land_quietly(database, *canaries.events())
    with database.connect() as connection:
        connection.execute("create table network_key as select * from masking.keys where domain = 'network'")
        connection.execute("delete from masking.keys where domain = 'network'")
    talkative.mark()
    failed = support.dbt(database, ["run"], tmp_path)
    assert failed.returncode == 1
    assert "no masking key for domain network" in failed.stdout
    talkative.assert_nothing_leaked(failed.stdout, failed.stderr, folder=tmp_path)

    # the guard removed: the cast is not tried first
    with database.connect() as connection:
        connection.execute("insert into masking.keys select * from network_key")
        connection.execute(
            "create or replace function masking.canonical_ip(value text) returns text "
            "language plpgsql immutable strict as 'begin return host(value::inet); end'"
        )
    failed = support.dbt(database, ["run"], tmp_path)
    assert failed.returncode == 1
    assert canaries.found_in(failed.stdout) == {canaries.NO_ADDRESS}
    assert canaries.found_in(talkative.logged())
    assert canaries.found_under(tmp_path / "logs")
    assert canaries.found_under(tmp_path / "target")


def test_canary_in_a_dbt_test_that_fails(talkative: Talkative, tmp_path: Path) -> None:
    """What fails is a column that holds a personal value; the test counts it and shows none."""
    database = talkative.database
    land_quietly(database, *canaries.events())
    assert support.dbt(database, ["run"], tmp_path).returncode == 0
    talkative.assert_nothing_leaked(folder=tmp_path)
    with database.connect() as connection:
        connection.execute("create table masked as select message_id, masked_device_id from marts.user_logins")
        connection.execute("update marts.user_logins set masked_device_id = %s", [canaries.DEVICE_ID])
    talkative.mark()
    failed = support.dbt(database, ["test", "--select", "analytics_user_logins"], tmp_path)
    with database.connect() as connection:
        connection.execute(
            "update marts.user_logins set masked_device_id = masked.masked_device_id "
            "from masked where masked.message_id = user_logins.message_id"
        )
        connection.execute("select pg_stat_statements_reset()")
    assert failed.returncode == 1
    assert re.search("FAIL [0-9]+ token_format_analytics_user_logins_masked_device_id", failed.stdout)
    talkative.assert_nothing_leaked(failed.stdout, failed.stderr, folder=tmp_path)

    # what dbt is told to show, it shows, and logs: the search would have found it
    shown = support.dbt(
        database, ["show", "--output", "json", "--inline", "select body from {{ source('staging', 'raw_logins') }}"], tmp_path
    )
    assert canaries.found_in(shown.stdout)
    assert canaries.found_under(tmp_path)
