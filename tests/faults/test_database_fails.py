"""PostgreSQL crashes, ends sessions, is slow, and runs out of disk."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.processes import own_by_unprivileged
from tests.faults.trial import FULL, Fault, Moment, Trial, before_commit, commits_blocked, lose, mid_copy, survive

pytestmark = pytest.mark.slow


def postgres_crashes_at(moment: Moment) -> Fault:
    """It stops `immediate` and is started again, and the loader goes on by itself."""

    def fault(trial: Trial) -> None:
        trial.hold_at(moment, batch=trial.random.randint(1, 8))
        trial.send()
        loader = trial.start()
        trial.wait_until_held()
        if moment is before_commit:
            trial.to_postgres.heal()  # the COMMIT is on its way when the server dies
        trial.restart_postgres()
        trial.to_postgres.heal()
        trial.wait_for("the loader has noticed", lambda: "PostgreSQL failed, trying again" in loader.output())
        trial.wait_until_loaded()

    return fault


def backends_are_terminated(trial: Trial) -> None:
    """In a loop, for 30 s. The loader waits longer and longer between its attempts, and uses less than a tenth of a core."""
    done = threading.Event()
    ended: list[int] = []

    def terminate() -> None:
        with trial.database.connect() as connection:
            while not done.wait(0.01):
                query = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'loader' and datname = current_database()"
                ended.append(connection.execute(query).rowcount)

    def attempts() -> int:
        return loader.output().count("PostgreSQL failed")

    loader = trial.start()
    trial.wait_for_stub("ReceiveMessage")
    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        trial.wait_for("the first is terminated", lambda: sum(ended) > 0)
        trial.send()
        trial.wait_for("the loader has noticed", lambda: attempts() > 0)
        began, used = time.monotonic(), loader.cpu_seconds()
        # Its sixth attempt comes after some 3 s of waiting, or at once if it does not wait.
        trial.wait_for("it tries", lambda: attempts() > 6 and time.monotonic() - began > (30 if FULL else 0))
        seconds, used = time.monotonic() - began, loader.cpu_seconds() - used
    finally:
        done.set()
        thread.join()
    trial.proof |= {"terminated": sum(ended), "attempts": attempts(), "seconds": seconds, "cpu share": used / seconds}
    assert trial.proof["terminated"] > 3
    # Its own time on a processor, so that what else the machine does makes it no larger.
    assert trial.proof["cpu share"] < 0.1
    trial.wait_until_loaded()


def commit_outlasts_the_visibility_timeout(trial: Trial) -> None:
    """It takes 10 s where messages stay hidden for 2 s, and no message comes twice because of it."""
    trial.start(LOADER_VISIBILITY_SECONDS=2 if FULL else 1, LOADER_MAX_HELD_MESSAGES=500)
    with commits_blocked(trial):
        began = time.monotonic()
        trial.send()
        trial.wait_for_stub("handed out", 500)
        # Each is extended at half time, so after the third time its first time-out has passed.
        enough = 3 * 500
        trial.wait_for(
            "extended", lambda: trial.stub.stats().get("extended", 0) >= enough and time.monotonic() - began > (10 if FULL else 0)
        )
        trial.proof["extended"] = trial.stub.stats().get("extended", 0)
        trial.proof["landed while blocked"] = trial.landed()
        assert trial.landed() == 0
        assert trial.stub.stats().get("expired", 0) == 0
    trial.wait_until_loaded()
    assert trial.stub.stats().get("expired", 0) == 0
    assert trial.stub.stats()["handed out"] == trial.sent


def a_statement_is_cancelled_mid_copy(trial: Trial) -> None:
    """Such as by statement_timeout. The server's log then says at which row, and must not say what is in it."""
    log = trial.database.server.log
    log_start = len(log.read_text())
    trial.hold_at(mid_copy)
    trial.send()
    loader = trial.start()
    trial.wait_until_held()
    cancel = "select pg_cancel_backend(pid) from pg_stat_activity where usename = 'loader' and datname = current_database()"
    assert trial.database.value(cancel)
    trial.to_postgres.heal()
    trial.wait_for("the loader has noticed", lambda: "SQLSTATE 57014" in loader.output())
    trial.proof["rows named"] = log.read_text()[log_start:].count("CONTEXT:  COPY incoming, line ")
    assert trial.proof["rows named"]
    trial.wait_until_loaded()


def disk_is_full(trial: Trial) -> None:
    """Staging is in a small tablespace; nothing is deleted while it is full, and it goes on when there is room again."""
    with small_disk(trial) as disk:
        tablespace = f"small_{trial.database.name}"
        with trial.database.connect() as connection:
            partition = f"raw_logins_{time.strftime('%Y%m%d', time.gmtime())}"
            connection.execute("select staging.ensure_partitions(array[current_date])")
            connection.execute(f"create tablespace {tablespace} location '{disk}'".encode())
            connection.execute(f"alter table staging.{partition} set tablespace {tablespace}".encode())
        filler = disk / "filler"
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        filler.write_bytes(bytes(free - 400_000 if FULL else free - 100_000))
        trial.send()
        loader = trial.start()
        trial.wait_for("the disk is full", lambda: "SQLSTATE 53100" in loader.output())
        trial.proof["disk full"] = loader.output().count("SQLSTATE 53100")
        assert not trial.lost()
        assert trial.landed() < trial.sent
        filler.unlink()
        trial.wait_until_loaded()
        with trial.database.connect() as connection:
            connection.execute(f"alter table staging.{partition} set tablespace pg_default".encode())
            connection.execute(f"drop tablespace {tablespace}".encode())


@contextlib.contextmanager
def small_disk(trial: Trial) -> Iterator[Path]:
    disk = trial.directory / "disk"
    disk.mkdir()
    size = "24m" if FULL else "8m"
    mounted = subprocess.run(
        ["/usr/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small file system takes root: {mounted.stderr.strip()}")
    own_by_unprivileged(disk)
    try:
        yield disk
    finally:
        subprocess.run(["/usr/bin/umount", "--lazy", str(disk)], check=True)


FAULTS: dict[str, Fault] = {
    "PostgreSQL crashes mid-COPY": postgres_crashes_at(mid_copy),
    "PostgreSQL crashes during COMMIT": postgres_crashes_at(before_commit),
    "a statement is cancelled mid-COPY": a_statement_is_cancelled_mid_copy,
    "backends are terminated": backends_are_terminated,
    "a commit outlasts the visibility time-out": commit_outlasts_the_visibility_timeout,
    "the disk is full": disk_is_full,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nothing_is_lost_when(trial: Trial, fault: Fault) -> None:
    survive(trial, fault)


def test_control_a_loader_that_deletes_before_the_commit_loses_messages(trial: Trial) -> None:
    lose(trial, FAULTS["PostgreSQL crashes during COMMIT"])
