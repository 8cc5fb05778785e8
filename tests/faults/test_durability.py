"""What was deleted from SQS survives the machine that PostgreSQL ran on.

Power loss is played: of the files of the server only what it had flushed is left. These are its files as of its last checkpoint, which
were copied then, and its write-ahead log up to the position that it calls flushed.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from sandbox import postgres, processes
from sandbox.postgres import Postgres
from tests.faults.forked_loader import STATEMENTS
from tests.faults.trial import IDS, MIGRATED, PASSWORD, Trial, serving, trying
from tests.proxies import Proxy, forwarding
from tests.support import Database

pytestmark = pytest.mark.slow

# The server is durable, and flushes what is committed asynchronously as late as it can.
SETTINGS = postgres.SETTINGS | {
    "wal_writer_delay": "10s",
    "wal_writer_flush_after": "1GB",
    "checkpoint_timeout": "1h",
    "max_wal_size": "10GB",
}
FLUSHED = "flushed"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, passwords: Mapping[str, str]) -> Path:
    """The data directory of a durable server that was shut down, with `database/` applied."""
    with serving(tmp_path_factory.mktemp("durable"), SETTINGS, passwords) as server:
        return server.data


@pytest.fixture
def trial(files: Path, tmp_path: Path, passwords: Mapping[str, str]) -> Iterator[Trial]:
    """A trial on a running server with those files."""
    server = Postgres(tmp_path / "primary", processes.free_port(), "postgres", PASSWORD)
    server.directory.mkdir()
    copy(files, server.data)
    (server.directory / FLUSHED).symlink_to(files)
    try:
        postgres.start(server)
        with trying(Database(server, MIGRATED, passwords), tmp_path) as trial:
            yield trial
    finally:
        postgres.stop(server)


def copy(source: Path, target: Path) -> None:
    """Copy a folder with its owners."""
    subprocess.run(["/bin/cp", "--archive", "-H", str(source), str(target)], check=True)


# ── power ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def cut_power(server: Postgres) -> None:
    """What the server had not flushed to the disk is gone, and not only what it had not written to the operating system."""
    with server.connect() as connection:
        ((segment, offset),) = connection.execute("select * from pg_walfile_name_offset(pg_current_wal_flush_lsn())").fetchall()
    postgres.kill(server)
    dead = server.data.rename(server.data.with_name("dead"))
    copy(server.directory / FLUSHED, server.data)
    # PostgreSQL flushes this one whenever it writes it; it says that the server was running.
    shutil.copyfile(dead / "global" / "pg_control", server.data / "global" / "pg_control")
    for path in sorted((dead / "pg_wal").iterdir()):
        target = server.data / "pg_wal" / path.name
        if path.is_file() and path.name <= segment:
            target.unlink(missing_ok=True)
            copy(path, target)
    with (server.data / "pg_wal" / segment).open("r+b") as log:
        size = os.fstat(log.fileno()).st_size
        log.seek(offset)
        log.write(bytes(size - offset))


def assert_left_out(trial: Trial) -> None:
    said = "".join(loader.output for loader in trial.loaders)
    assert not [pattern for pattern in STATEMENTS.get(trial.without, ()) if f"left out: {pattern}\n" not in said]


SETS_OFF = {
    "the server": "alter system set synchronous_commit = off",
    "the database": f"alter database {MIGRATED} set synchronous_commit = off",
    "the role": "alter role loader set synchronous_commit = off",
}


@pytest.mark.parametrize(
    ("loss", "set_off_by", "without"),
    [
        (postgres.kill, "the role", ""),
        *((cut_power, by, "") for by in SETS_OFF),
        # controls: what is deleted is lost where the loader leaves durability to the server
        (postgres.kill, "the database", "the durability"),
        (cut_power, "the database", "the durability"),
    ],
)
def test_nothing_that_was_deleted_is_missing_after(trial: Trial, loss: Callable[[Postgres], None], set_off_by: str, without: str) -> None:
    server, trial.without = trial.database.server, without
    with server.connect() as connection:
        connection.execute(SETS_OFF[set_off_by].encode())
        connection.execute("select pg_reload_conf()")
    trial.send()
    loader = trial.start()
    trial.wait_for("all is deleted", lambda: len(trial.stub.deleted()) == IDS)
    loss(server)
    loader.end(signal.SIGKILL)
    postgres.start(server)
    assert_left_out(trial)
    assert bool(trial.lost()) == bool(without)


# ── a standby ────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def standby_of(database: Database, replication: Proxy) -> Iterator[Database]:
    """A synchronous standby, which gets the log over *replication*."""
    primary = database.server
    standby = Postgres(primary.directory.with_name("standby"), processes.free_port(), primary.user, primary.password)
    standby.directory.mkdir()
    processes.own_by_unprivileged(standby.directory)
    backup = [str(postgres.binaries() / "pg_basebackup"), "-D", str(standby.data), "-h", "127.0.0.1", "-p", str(replication.port)]
    subprocess.run(
        [*processes.unprivileged_prefix(), *backup, "-U", primary.user, "-R", "--checkpoint=fast"],
        env={"PGPASSWORD": primary.password, "LC_ALL": "C"},
        check=True,
        capture_output=True,
    )
    try:
        postgres.start(standby)
        with primary.connect() as connection:
            connection.execute("alter system set synchronous_standby_names = '*'")
            connection.execute("select pg_reload_conf()")
        synchronous = "select count(*) from pg_stat_replication where sync_state = 'sync'"
        assert processes.wait_until(lambda: database.value(synchronous) == 1, 30)
        yield Database(standby, database.name, database.passwords)
    finally:
        postgres.stop(standby)


WAITING = "from pg_stat_activity where usename = 'loader' and wait_event = 'SyncRep'"


@pytest.mark.parametrize(
    ("cancels", "without"),
    [
        (False, ""),
        (False, "the chance"),
        (True, ""),
        # controls: what is deleted is lost where duplicates do not wait, or where nobody hears that a wait was cancelled
        (False, "the chance and the wait"),
        (True, "the warning of a commit"),
    ],
)
def test_nothing_that_was_deleted_is_missing_on_a_promoted_standby_although_a_wait(trial: Trial, *, cancels: bool, without: str) -> None:
    """Is cancelled, or times out and the loader tries again. Of two loaders with the same messages, one finds all landed before."""
    primary, trial.without = trial.database, without

    def wait_for(what: str, condition: Callable[[], object]) -> None:
        trial.wait_for(what, lambda: condition() or len(trial.stub.deleted()) > 100)  # a control has lost some already

    def failures() -> int:
        return first.output.count("PostgreSQL failed")

    def is_cancelled() -> bool:
        return bool(primary.rows(f"select pg_cancel_backend(pid) {WAITING}"))

    with forwarding(Proxy(primary.server.port)) as replication, standby_of(primary, replication) as promoted:
        # with a time-out of a second, or so long that only the cancelled wait ends
        first, second = (trial.start(LOADER_TIMEOUT_SECONDS=60 if cancels else 1) for _ in range(2))
        trial.wait_for_stub("polls", 2)
        trial.send(100)
        trial.wait_for("both servers have it", lambda: len(trial.stub.deleted()) == 100)
        assert promoted.value("select count(*) from staging.raw_logins") == 100
        second.send(signal.SIGSTOP)
        replication.stalled = {"to client"}
        trial.send()
        wait_for("a commit waits", lambda: primary.value(f"select count(*) {WAITING}"))
        if cancels:
            wait_for("its wait is cancelled", is_cancelled)
        wait_for("it tries again", lambda: failures() >= (1 if cancels else 2))
        handed_out = trial.stub.stats()["handed out"]
        trial.stub.lapse()
        second.send(signal.SIGCONT)
        wait_for("the second gets the same messages", lambda: trial.stub.stats()["handed out"] > handed_out)
        if cancels:
            wait_for("a wait is cancelled again", is_cancelled)
        else:
            failed = failures()
            wait_for("it tries once more", lambda: failures() > failed + 1)
        postgres.kill(primary.server)
        for loader in trial.loaders:
            loader.end(signal.SIGKILL)
        assert replication.counts["stalled"]
        assert_left_out(trial)

        replication.reset()  # the standby never sees what was held back on its way
        promoted.value("select pg_promote()")
        trial.database, trial.to_postgres.target_port, trial.without = promoted, promoted.server.port, ""
        missing = trial.lost()
        assert bool(missing) == bool("wait" in without or "warning" in without)
        trial.stub.lapse()
        trial.finish()
        assert trial.lost() == missing
