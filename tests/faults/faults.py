"""What production does to the loader. Each fault acts on a trial, proves in `trial.proof` that it happened, and ends its loaders."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.processes import own_by_unprivileged
from tests.faults.proxy import Direction, Proxy
from tests.faults.trial import FULL, IDS, Moment, Trial, after_commit, before_commit, before_copy, mid_copy

Fault = Callable[[Trial], None]

DAY_MS = 24 * 60 * 60 * 1000


# ── kill -9 ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def killed_at(moment: Moment) -> Fault:
    def fault(trial: Trial) -> None:
        trial.stub.control(visibility=2)
        trial.hold_at(moment, batch=trial.random.randint(1, 8))
        trial.send()
        loader = trial.start()
        trial.wait_until_held()
        trial.kill(loader)

    return fault


def killed_mid_delete(trial: Trial) -> None:
    """The deletes under way are done, but not answered."""
    trial.stub.control(visibility=2, hold=["DeleteMessageBatch"])
    trial.send()
    loader = trial.start(LOADER_RECEIVERS=trial.random.randint(1, 20))
    trial.wait_for_stub("held DeleteMessageBatch")
    loader.kill()
    trial.stub.control(hold=[])
    trial.wait_for("some are deleted, and some are not", lambda: 0 < trial.stub.stats()["deleted"] < trial.sent or trial.careless)


# ── PostgreSQL ───────────────────────────────────────────────────────────────────────────────────────────────────────


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
    """In a loop, for 30 s. The loader waits between its attempts: it uses less than a tenth of a core."""
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
    trial.wait_for("all has landed", lambda: trial.landed() == trial.sent or trial.careless)
    assert loader.terminate() == os.EX_OK, loader.output()


@contextlib.contextmanager
def commits_blocked(trial: Trial) -> Iterator[None]:
    """No transaction that inserts into staging can end. The loader, which must have been started, has made its connection."""
    trial.wait_for_stub("ReceiveMessage")
    with trial.database.connect(autocommit=False) as connection:
        connection.execute("lock table staging.raw_logins in share mode")
        yield
        connection.rollback()


def commit_outlasts_the_visibility_timeout(trial: Trial) -> None:
    """It takes 10 s where messages stay hidden for 2 s, and no message comes twice because of it."""
    trial.stub.control(visibility=2)
    loader = trial.start()
    with commits_blocked(trial):
        trial.send()
        trial.wait_for_stub("handed out", trial.sent)
        time.sleep(10 if FULL else 3)  # the commit takes this long
        trial.proof["landed while blocked"] = trial.landed()
        assert trial.landed() == 0
    trial.wait_for("all is deleted", lambda: not trial.stub.stats()["left"])
    assert loader.terminate() == os.EX_OK, loader.output()
    trial.wait_for_stub("extended", 0 if trial.careless else trial.sent)
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


# ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────────


def network(side: str, trouble: str) -> Fault:
    def fault(trial: Trial) -> None:
        proxy = trial.to_postgres if side == "PostgreSQL" else trial.to_sqs
        # Messages whose reply got lost are hidden for this long.
        trial.stub.control(round_trip=0.02, visibility=30 if trouble == "delays" else 3)
        trial.send()
        loader = trial.start("drain", LOADER_TIMEOUT_SECONDS=30 if trouble == "delays" else 2, LOADER_RECEIVERS=4)
        for direction in ("to server", "to client"):
            before = trial.landed()
            trial.wait_for("it loads", lambda: trial.landed() > before or loader.process.poll() is not None)  # noqa: B023  # called here
            trouble_on(trial, proxy, trouble, direction)
        assert loader.wait() == os.EX_OK, loader.output()

    return fault


def trouble_on(trial: Trial, proxy: Proxy, trouble: str, direction: Direction) -> None:
    if trouble == "resets":
        proxy.reset()
        trial.proof["broken"] = proxy.counts["broken"]
    elif trouble == "is half open":
        proxy.half_open(direction)
        trial.proof["broken"] = proxy.counts["broken"]
    elif trouble == "delays":
        proxy.delay_seconds = {direction: 5 if FULL else 0.5}
        enough = proxy.counts.get("delayed", 0) + 5
        trial.wait_for("delayed", lambda: proxy.counts.get("delayed", 0) >= enough)
        trial.proof["delayed"] = proxy.counts["delayed"]
    else:
        proxy.stalled = {direction}
        trial.wait_for("stalled", lambda: proxy.counts.get("stalled", 0) > 0)
        trial.wait_for("the loader gave a connection up", lambda: "trying again" in trial.loaders[-1].output())
        trial.proof["stalled"] = proxy.counts["stalled"]
    if trouble != "is half open":
        proxy.heal()


# ── SQS ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def sqs_misbehaves(proof: str, **behaviour: float) -> Fault:
    """*proof* is what the stub calls the fault when it has happened. Calls are repeated: no message has to come again."""

    def fault(trial: Trial) -> None:
        trial.stub.control(**behaviour)
        trial.send()
        loader = trial.start("drain")
        assert loader.wait() == os.EX_OK, loader.output()
        trial.wait_for_stub(proof)
        assert trial.stub.stats().get("expired", 0) == 0
        trial.stub.control(**dict.fromkeys(behaviour, 0))

    return fault


def the_same_message_comes_again(trial: Trial) -> None:
    """Twice in a reply, again at once under a new handle, and from other days."""
    trial.stub.control(duplicate_rate=0.2, redeliver_rate=0.1)
    now_ms = int(time.time() * 1000)
    for days in (0, 1, 3):
        trial.send(IDS // 3 + 1, now_ms - days * DAY_MS)
    loader = trial.start("drain")
    assert loader.wait() == os.EX_OK, loader.output()
    trial.wait_for_stub("duplicated in a batch")
    trial.wait_for_stub("redelivered at once")
    trial.stub.control(duplicate_rate=0, redeliver_rate=0)
    trial.proof["days"] = trial.database.value("select count(distinct tableoid) from staging.raw_logins")
    assert trial.proof["days"] == 3


def clock_is_off(hours: int) -> Fault:
    return sqs_misbehaves("refused for their time", clock_offset=-3600 * hours)


def dead_letters_are_redriven(trial: Trial) -> None:
    """Messages that a crashing loader received too often come back from the dead-letter queue with new ids."""
    trial.stub.control(visibility=1, max_receives=2)
    trial.send()
    for _ in range(2):
        trial.hold_at(before_copy)
        loader = trial.start()
        trial.wait_until_held()
        trial.wait_for("all is received", lambda: trial.stub.stats().get("in flight") == trial.stub.stats()["left"] or trial.careless)
        trial.kill(loader)
        trial.to_postgres.heal()
        trial.wait_for("all is visible again", lambda: trial.stub.stats()["in flight"] == 0)
    trial.finish()
    trial.wait_for_stub("dead", 0 if trial.careless else 1)
    trial.stub.control(max_receives=0)
    trial.stub.redrive()
    trial.finish()
    trial.wait_for_stub("redriven", 0 if trial.careless else 1)


# ── being stopped ────────────────────────────────────────────────────────────────────────────────────────────────────


def terminated_under_load(trial: Trial) -> None:
    """It lands and deletes what it holds, and gives back what it cannot land: nothing stays hidden from others."""
    trial.stub.control(round_trip=0.025)
    trial.send()
    loader = trial.start(LOADER_RECEIVERS=8)
    trial.wait_for("it loads", lambda: trial.landed() > 0)
    assert loader.terminate() == os.EX_OK, loader.output()
    trial.proof["left"] = trial.stub.stats()["left"]
    assert trial.proof["left"] > 0
    assert trial.stub.stats()["in flight"] == 0


def terminated_while_commits_hang(trial: Trial) -> None:
    loader = trial.start(LOADER_GRACE_SECONDS=5)
    with commits_blocked(trial):
        trial.send()
        trial.wait_for_stub("handed out", trial.sent)
        assert loader.terminate() == os.EX_OK, loader.output()
        trial.wait_for_stub("released", 0 if trial.careless else trial.sent)
        assert trial.stub.stats()["in flight"] == 0


def four_loaders_come_and_go(trial: Trial) -> None:
    trial.stub.control(visibility=2, round_trip=0.05)
    trial.send()
    loaders = [trial.start(LOADER_RECEIVERS=2) for _ in range(4)]
    for turn in range(30 if FULL else 6):
        trial.wait_for("they load", lambda: trial.landed() > min(turn, trial.sent - 1) or trial.careless)  # noqa: B023  # called here
        loader = loaders.pop(trial.random.randrange(4))
        if trial.random.random() < 0.5:
            loader.kill()
            trial.proof["killed"] = trial.proof.get("killed", 0) + 1
        else:
            loader.process.send_signal(trial.random.choice((signal.SIGTERM, signal.SIGINT)))
            trial.proof["stopped"] = trial.proof.get("stopped", 0) + 1
        loaders.append(trial.start(LOADER_RECEIVERS=2))
    for loader in loaders:
        # The youngest may not have begun yet, or not even have learnt to take a signal.
        assert loader.terminate() in {os.EX_OK, os.EX_TEMPFAIL, -signal.SIGTERM}, loader.output()


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────

KILLS: dict[str, Fault] = {
    "killed after receive": killed_at(before_copy),
    "killed mid-COPY": killed_at(mid_copy),
    "killed before commit": killed_at(before_commit),
    "killed between commit and delete": killed_at(after_commit),
    "killed mid-delete": killed_mid_delete,
}

FAULTS: dict[str, Fault] = {
    "PostgreSQL crashes mid-COPY": postgres_crashes_at(mid_copy),
    "PostgreSQL crashes during COMMIT": postgres_crashes_at(before_commit),
    "backends are terminated": backends_are_terminated,
    **{
        f"the network to {side} {trouble}": network(side, trouble)
        for side in ("PostgreSQL", "SQS")
        for trouble in ("resets", "stalls", "delays", "is half open")
    },
    "the answers to deletes get lost": sqs_misbehaves("answers lost", lose_answer_rate=0.2),
    "single deletes fail": sqs_misbehaves("failed entries", entry_failure_rate=0.1),
    "SQS answers 500": sqs_misbehaves("errors", error_rate=0.1),
    "SQS throttles": sqs_misbehaves("throttled", throttle_rate=0.1),
    "too many messages are in flight": sqs_misbehaves("over limit", over_limit_rate=0.5),
    "a commit outlasts the visibility time-out": commit_outlasts_the_visibility_timeout,
    "the same message comes again": the_same_message_comes_again,
    "terminated under load": terminated_under_load,
    "terminated while commits hang": terminated_while_commits_hang,
    "four loaders come and go": four_loaders_come_and_go,
    "the clock is an hour fast": clock_is_off(1),
    "the clock is an hour slow": clock_is_off(-1),
    "the disk is full": disk_is_full,
    "dead letters are redriven": dead_letters_are_redriven,
}
