"""What was deleted from SQS survives the machine that PostgreSQL ran on.

Power loss is played: of the files of the server only what it had flushed is left. These are its files as of its last checkpoint, which
were copied then, and its write-ahead log up to the position that it calls flushed.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from benchmarks import stub as stubs
from benchmarks.stub import Stub
from loader.migrate import migrate
from sandbox import postgres, processes
from sandbox.postgres import Postgres
from sandbox.processes import wait_until
from tests.faults import proxy
from tests.faults.trial import IDS
from tests.support import DATABASE_FILES, ROOT, Database, environment

pytestmark = pytest.mark.slow

# The server is durable, and flushes what is committed asynchronously as late as it can.
SETTINGS = postgres.SETTINGS | {
    "wal_writer_delay": "10s",
    "wal_writer_flush_after": "1GB",
    "checkpoint_timeout": "1h",
    "max_wal_size": "10GB",
}
TEMPLATE = "migrated"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, passwords: Mapping[str, str]) -> Path:
    """The data directory of a durable server that was shut down, with `database/` applied."""
    server = Postgres(tmp_path_factory.mktemp("durable"), processes.free_port(), "postgres", "made-up")
    try:
        postgres.start(server, SETTINGS)
        with server.connect() as connection:
            connection.execute(f"create database {TEMPLATE}".encode())
        with server.connect(TEMPLATE) as connection:
            migrate(connection, DATABASE_FILES, passwords)
    finally:
        postgres.stop(server)
    return server.data


@pytest.fixture
def database(files: Path, tmp_path: Path, passwords: Mapping[str, str]) -> Iterator[Database]:
    """A running server with those files."""
    server = Postgres(tmp_path / "primary", processes.free_port(), "postgres", "made-up")
    server.directory.mkdir()
    copy(files, server.data)
    try:
        postgres.start(server)
        yield Database(server, TEMPLATE, passwords)
    finally:
        postgres.stop(server)


@pytest.fixture
def queue() -> Iterator[Stub]:
    with stubs.running() as stub:
        yield stub


def copy(source: Path, target: Path) -> None:
    """Copy a folder with its owners."""
    subprocess.run(["/bin/cp", "--archive", str(source), str(target)], check=True)


@contextlib.contextmanager
def following(database: Database, queue: Stub, without: str, **settings: object) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A loader that lacks something, and its log."""
    chosen = {"LOADER_BATCH_MESSAGES": IDS // 10, "LOADER_HTTP_PORT": 0, "LOADER_BATCH_SECONDS": 0.1} | settings
    variables = environment(database) | queue.environment | {name: str(value) for name, value in chosen.items()}
    log = database.server.directory / f"loader-{secrets.token_hex(4)}.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "tests.faults.unsafe", without, "follow"]
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process, log
        finally:
            process.kill()
            process.wait()


def lost(database: Database, queue: Stub) -> set[str]:
    """The ids that were deleted from the queue and are not in staging."""
    return queue.deleted() - {message_id for (message_id,) in database.rows("select message_id from staging.raw_logins")}


# ── power ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def kill_processes(database: Database, _files: Path) -> None:
    """All of the server's, at once: what it had not written to the operating system is gone."""
    postgres.kill(database.server)


def cut_power(database: Database, files: Path) -> None:
    """What it had not flushed to the disk is gone as well."""
    ((segment, offset),) = database.rows("select * from pg_walfile_name_offset(pg_current_wal_flush_lsn())")
    postgres.kill(database.server)
    data, dead = database.server.data, database.server.data.with_name("dead")
    data.rename(dead)
    copy(files, data)
    # PostgreSQL flushes this one whenever it writes it; it says that the server was running.
    shutil.copyfile(dead / "global" / "pg_control", data / "global" / "pg_control")
    for path in sorted((dead / "pg_wal").iterdir()):
        target = data / "pg_wal" / path.name
        if path.is_file() and path.name <= segment:
            target.unlink(missing_ok=True)
            copy(path, target)
    with (data / "pg_wal" / segment).open("r+b") as log:
        size = os.fstat(log.fileno()).st_size
        log.seek(offset)
        log.write(bytes(size - offset))


LOSSES = {"the server's processes are killed": kill_processes, "power is cut": cut_power}
SETS_OFF = {
    "the server": "alter system set synchronous_commit = off",
    "the database": f"alter database {TEMPLATE} set synchronous_commit = off",
    "the role": "alter role loader set synchronous_commit = off",
}


def lost_with(  # noqa: PLR0913, PLR0917  # what a trial is made of
    database: Database, queue: Stub, files: Path, loss: str, without: str, set_off_by: str
) -> int:
    with database.server.connect() as connection:
        connection.execute(SETS_OFF[set_off_by].encode())
        connection.execute("select pg_reload_conf()")
    queue.preload(IDS)
    with following(database, queue, without):
        assert wait_until(lambda: queue.stats()["left"] == 0, 60)
        LOSSES[loss](database, files)
    postgres.start(database.server)
    assert len(queue.deleted()) == IDS
    return len(lost(database, queue))


@pytest.mark.parametrize(
    ("loss", "set_off_by"), [("the server's processes are killed", "the role"), *(("power is cut", by) for by in SETS_OFF)]
)
def test_nothing_that_was_deleted_is_missing_when(database: Database, queue: Stub, files: Path, loss: str, set_off_by: str) -> None:
    assert lost_with(database, queue, files, loss, "nothing", set_off_by) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_control_a_loader_that_leaves_durability_to_the_server_loses_messages_when(
    database: Database, queue: Stub, files: Path, loss: str
) -> None:
    missing = lost_with(database, queue, files, loss, "synchronous_commit", "the database")
    print(f"{loss}: {missing} of {IDS} are missing without the pin")
    assert missing > 0


# ── a standby ────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def standby_of(database: Database, replication: proxy.Proxy) -> Iterator[Database]:
    """A synchronous standby, which gets the log over *replication*."""
    primary = database.server
    standby = Postgres(primary.directory.with_name("standby"), processes.free_port(), primary.user, primary.password)
    standby.directory.mkdir()
    processes.own_by_unprivileged(standby.directory)
    backup = postgres.binaries() / "pg_basebackup"
    subprocess.run(
        [
            *(*processes.unprivileged_prefix(), str(backup), "-D", str(standby.data), "-h", "127.0.0.1", "-p", str(replication.port)),
            *("-U", primary.user, "-R", "--checkpoint=fast"),
        ],
        env={"PGPASSWORD": primary.password, "LC_ALL": "C"},
        check=True,
        capture_output=True,
    )
    try:
        postgres.start(standby)
        with primary.connect() as connection:
            connection.execute("alter system set synchronous_standby_names = '*'")
            connection.execute("select pg_reload_conf()")
        assert wait_until(lambda: database.value("select count(*) from pg_stat_replication where sync_state = 'sync'") == 1, 30)
        yield Database(standby, database.name, database.passwords)
    finally:
        postgres.stop(standby)


WAITS = "select count(*) from pg_stat_activity where usename = 'loader' and wait_event = 'SyncRep'"
CANCEL = "select pg_cancel_backend(pid) from pg_stat_activity where usename = 'loader' and wait_event = 'SyncRep'"


def lost_after_promotion(database: Database, queue: Stub, without: str, *, cancels: bool) -> int:
    """The standby stops receiving, the loaders try again or are cancelled, the primary dies, the standby takes over."""
    with proxy.forwarding(database.server.port) as replication, standby_of(database, replication) as promoted:
        # with a time-out of a second, or so long that only the cancelled wait ends
        settings = {"LOADER_TIMEOUT_SECONDS": 60 if cancels else 1}
        with following(database, queue, without, **settings) as (_, log), following(database, queue, without, **settings) as (second, _):
            assert wait_until(lambda: queue.stats()["polls"] == 2, 30)
            queue.preload(100)
            assert wait_until(lambda: len(queue.deleted()) == 100, 30)
            assert promoted.value("select count(*) from staging.raw_logins") == 100
            second.send_signal(signal.SIGSTOP)
            replication.stalled = {"to client"}
            queue.preload(IDS)
            assert wait_until(lambda: database.value(WAITS) > 0, 30)
            if cancels:
                assert wait_until(lambda: bool(database.rows(CANCEL)), 10)
            attempts = 1 if cancels else 2
            assert wait_until(lambda: log.read_text().count("PostgreSQL failed") >= attempts or len(queue.deleted()) > 100, 60)
            queue.lapse()
            second.send_signal(signal.SIGCONT)  # it gets the same messages
            handed_out = queue.stats()["handed out"]
            assert wait_until(lambda: queue.stats()["handed out"] > handed_out or len(queue.deleted()) > 100, 30)
            if cancels:
                assert wait_until(lambda: bool(database.rows(CANCEL)) or len(queue.deleted()) > 100, 10)
            attempts = log.read_text().count("PostgreSQL failed") + 1
            assert wait_until(lambda: log.read_text().count("PostgreSQL failed") > attempts or len(queue.deleted()) > 100 or cancels, 30)
            postgres.kill(database.server)
        assert replication.counts["stalled"]
    return finish_on(promoted, queue)


def finish_on(promoted: Database, queue: Stub) -> int:
    postgres.start(promoted.server)  # it never saw what was held back on its way
    promoted.value("select pg_promote()")
    missing = len(lost(promoted, queue))
    queue.lapse()
    with following(promoted, queue, "nothing"):
        assert wait_until(lambda: queue.stats()["left"] == 0, 60)
    assert len(lost(promoted, queue)) == missing
    postgres.stop(promoted.server)
    return missing


@pytest.mark.parametrize(
    ("without", "cancels"),
    [("nothing", False), ("the truncation", False), ("nothing", True)],
    ids=["it times out and tries again", "it does so, and nothing else makes duplicates wait", "its wait is cancelled"],
)
def test_nothing_that_was_deleted_is_missing_on_a_promoted_standby_although(
    database: Database,
    queue: Stub,
    without: str,
    cancels: bool,  # noqa: FBT001  # pytest's parameter
) -> None:
    assert lost_after_promotion(database, queue, without, cancels=cancels) == 0


@pytest.mark.parametrize(("without", "cancels"), [("the truncation, the wait", False), ("the warning of a commit", True)])
def test_control_without_this_messages_are_missing_on_a_promoted_standby(
    database: Database,
    queue: Stub,
    without: str,
    cancels: bool,  # noqa: FBT001  # pytest's parameter
) -> None:
    missing = lost_after_promotion(database, queue, without, cancels=cancels)
    print(f"without {without}: {missing} are missing on the standby")
    assert missing > 0
