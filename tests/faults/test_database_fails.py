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
from tests.faults.trial import FULL, Fault, Moment, Trial, before_commit, commits_blocked, controls, lose, mid_copy, survive


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
        trial.wait_for("all has landed", lambda: trial.landed() == trial.sent or trial.careless)
        assert loader.terminate() == os.EX_OK, loader.output()
        assert "PostgreSQL failed, trying again" in loader.output()

    return fault


def backends_are_terminated(trial: Trial) -> None:
    """In a loop, for 30 s. The loader waits longer and longer between its attempts, and uses less than a tenth of a core."""
    trial.send()
    done = threading.Event()
    ended: list[int] = []

    def terminate() -> None:
        with trial.database.connect() as connection:
            while not done.is_set():
                query = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'loader' and datname = current_database()"
                ended.append(connection.execute(query).rowcount)
                time.sleep(0.01)

    loader = trial.start()
    trial.wait_for_stub("handed out")
    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        trial.wait_for("the loader has noticed", lambda: "PostgreSQL failed" in loader.output())
        share = loader.cpu_share(30 if FULL else 5)
    finally:
        done.set()
        thread.join()
    trial.proof["terminated"] = sum(ended)
    assert trial.proof["terminated"] > 3
    trial.proof["cpu share"] = share
    assert share < 0.1
    trial.proof["attempts"] = loader.output().count("PostgreSQL failed")
    assert 1 < trial.proof["attempts"] < 40
    trial.wait_for("all has landed", lambda: trial.landed() == trial.sent or trial.careless)
    assert loader.terminate() == os.EX_OK, loader.output()


def commit_outlasts_the_visibility_timeout(trial: Trial) -> None:
    """It takes 10 s where messages stay hidden for 2 s, and no message comes twice because of it."""
    trial.stub.control(visibility=2)
    loader = trial.start()
    with commits_blocked(trial):
        trial.send()
        trial.wait_for_stub("handed out", 500)
        time.sleep(10 if FULL else 3)  # the commit takes this long
        trial.proof["landed while blocked"] = trial.landed()
        assert trial.landed() == 0
    trial.wait_for("all is deleted", lambda: not trial.stub.stats()["left"])
    assert loader.terminate() == os.EX_OK, loader.output()
    trial.wait_for_stub("extended", 0 if trial.careless else 500)
    assert trial.stub.stats().get("expired", 0) == 0
    assert trial.stub.stats()["handed out"] == trial.sent


def disk_is_full(trial: Trial) -> None:
    """Staging is in a small tablespace; nothing is deleted while it is full, and it goes on when there is room again."""
    with small_disk(trial) as disk:
        with trial.database.connect() as connection:
            partition = f"raw_logins_{time.strftime('%Y%m%d', time.gmtime())}"
            connection.execute("select staging.ensure_partitions(array[current_date])")
            connection.execute(f"create tablespace small location '{disk}'".encode())
            connection.execute(f"alter table staging.{partition} set tablespace small".encode())
        filler = disk / "filler"
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        filler.write_bytes(bytes(free - 400_000 if FULL else free - 100_000))
        trial.send()
        loader = trial.start()
        trial.wait_for("the disk is full", lambda: "SQLSTATE 53100" in loader.output())
        trial.proof["disk full"] = loader.output().count("SQLSTATE 53100")
        if not trial.careless:
            assert not trial.lost()
            assert trial.landed() < trial.sent
        filler.unlink()
        trial.wait_for("all has landed", lambda: trial.landed() == trial.sent or trial.careless)
        assert loader.terminate() == os.EX_OK, loader.output()
        with trial.database.connect() as connection:
            connection.execute(f"alter table staging.{partition} set tablespace pg_default".encode())
            connection.execute("drop tablespace small")


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
    "backends are terminated": backends_are_terminated,
    "a commit outlasts the visibility time-out": commit_outlasts_the_visibility_timeout,
    "the disk is full": disk_is_full,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nothing_is_lost_when(trial: Trial, fault: Fault) -> None:
    survive(trial, fault)


@pytest.mark.parametrize("fault", controls(FAULTS).values(), ids=controls(FAULTS))
def test_a_loader_that_deletes_before_the_commit_loses_messages_when(trial: Trial, fault: Fault) -> None:
    lose(trial, fault)
