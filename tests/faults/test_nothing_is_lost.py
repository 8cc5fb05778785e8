"""Whatever production does to a loader, each message lands once, and none is deleted from the queue that did not land."""

import contextlib
import datetime as dt
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial

import psutil
import pytest

from sandbox import postgres, processes
from tests.faults.forked_loader import ORDER
from tests.faults.trial import FULL, IDS, Fault, Moment, Trial, after_commit, before_commit, before_copy, mid_copy, survive
from tests.proxies import DIRECTIONS, Direction, Proxy


@contextlib.contextmanager
def commits_blocked(trial: Trial) -> Iterator[None]:
    """No transaction that inserts into staging can end. The loader, which must have been started, has made its connection."""
    trial.wait_for_stub("ReceiveMessage")
    with trial.database.connect(autocommit=False) as connection:
        connection.execute("lock table staging.raw_logins in share mode")
        yield
        connection.rollback()


# ── the loader is killed, or told to stop ────────────────────────────────────────────────────────────────────────────


def killed(trial: Trial, moment: Moment) -> None:
    trial.send()
    trial.kill(trial.load_until(moment, batch=trial.random.randint(1, 8)))


def killed_mid_delete(trial: Trial) -> None:
    """The deletes under way are done, but not answered."""
    trial.stub.control(hold=["DeleteMessageBatch"])
    trial.send()
    loader = trial.start(LOADER_RECEIVERS=trial.random.randint(1, 20))
    trial.wait_for_stub("held DeleteMessageBatch")
    loader.end(signal.SIGKILL)
    trial.stub.control(hold=[])
    trial.lapse()
    trial.wait_for("some are deleted, and some are not", lambda: 0 < trial.stub.stats()["deleted"] < trial.sent)


def terminated_under_load(trial: Trial) -> None:
    """It lands and deletes what it holds, and gives back what it cannot land: nothing stays hidden from others."""
    trial.stub.control(round_trip=0.1)
    trial.send()
    loader = trial.start(LOADER_RECEIVERS=4)
    trial.wait_for("it loads", lambda: trial.landed() > 0)
    assert loader.end() == os.EX_OK, loader.output
    trial.proof["left"] = trial.stub.stats()["left"]
    assert trial.proof["left"] > 0
    assert trial.stub.stats()["in flight"] == 0


def terminated_while_commits_hang(trial: Trial) -> None:
    loader = trial.start(LOADER_GRACE_SECONDS=6)
    with commits_blocked(trial):
        trial.send()
        trial.wait_for_stub("handed out", trial.sent // 2)
        assert loader.end() == os.EX_OK, loader.output
        trial.wait_for_stub("released", trial.sent // 2)
        assert trial.stub.stats()["in flight"] == 0


def four_loaders_come_and_go(trial: Trial) -> None:
    trial.stub.control(round_trip=0.05)
    trial.send()
    loaders = [trial.start(LOADER_RECEIVERS=2, LOADER_VISIBILITY_SECONDS=2) for _ in range(4)]
    for turn in range(30 if FULL else 6):
        trial.wait_for("they load", lambda: trial.landed() > min(turn, trial.sent - 1))  # noqa: B023  # called here
        stop = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[turn % 3]
        loaders.pop(trial.random.randrange(4)).send(stop)
        trial.proof[stop.name] = turn
        loaders.append(trial.start(LOADER_RECEIVERS=2, LOADER_VISIBILITY_SECONDS=2))
    # also those that got their signal before they had learnt to take one
    for loader in trial.loaders:
        loader.process.terminate()
    for loader in trial.loaders:
        loader.wait()


# ── PostgreSQL crashes, ends sessions, is slow, runs out of disk ─────────────────────────────────────────────────────


def postgres_crashes(trial: Trial, moment: Moment) -> None:
    """It stops `immediate` and is started again, and the loader goes on by itself."""
    trial.send()
    loader = trial.load_until(moment, batch=trial.random.randint(1, 8))
    if moment is before_commit:
        trial.to_postgres.heal()  # the COMMIT is on its way when the server dies
    server = trial.database.server
    assert server.process
    processes.stop(server.process, signal.SIGQUIT)
    assert postgres.start(server)
    trial.to_postgres.heal()
    trial.wait_for("the loader has noticed", lambda: "PostgreSQL failed, trying again" in loader.output)
    trial.wait_until_loaded()


def a_statement_is_cancelled_mid_copy(trial: Trial) -> None:
    """The server's log then says at which row, and must not say what is in it."""
    log = trial.database.server.log
    log_start = len(log.read_text())
    trial.send()
    loader = trial.load_until(mid_copy)
    query = "select pg_cancel_backend(pid) from pg_stat_activity where usename = 'loader' and datname = current_database()"
    assert trial.database.value(query)
    trial.to_postgres.heal()
    trial.wait_for("the loader has noticed", lambda: "SQLSTATE 57014" in loader.output)
    trial.proof["rows named"] = log.read_text()[log_start:].count("CONTEXT:  COPY incoming, line ")
    assert trial.proof["rows named"]
    trial.wait_until_loaded()


def backends_are_terminated(trial: Trial) -> None:
    """At every insert, for 30 s. The loader waits longer and longer between its attempts, and uses less than a tenth of a core."""
    loader = trial.start()
    trial.wait_for_stub("ReceiveMessage")
    process = psutil.Process(loader.process.pid)
    with trial.database.connect() as connection:
        connection.execute("""
            create function public.terminate() returns trigger language plpgsql security definer as
            $$ begin perform pg_terminate_backend(pg_backend_pid()); return null; end $$;
            create trigger terminated before insert on staging.raw_logins execute function public.terminate()
        """)
        trial.send()
        trial.wait_for("the loader has noticed", lambda: "PostgreSQL failed" in loader.output)
        began, before = time.monotonic(), sum(process.cpu_times()[:2])
        # Its sixth attempt comes after some 3 s of waiting, or at once if it does not wait.
        enough = 30 if FULL else 0
        trial.wait_for("it tries", lambda: loader.output.count("PostgreSQL failed") > 6 and time.monotonic() - began > enough)
        # Its own time on a processor, so that what else the machine does makes it no larger.
        trial.proof["cpu share"] = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)
        connection.execute("drop function public.terminate() cascade")
    assert trial.proof["cpu share"] < 0.1
    trial.wait_until_loaded()


def a_commit_outlasts_the_visibility_timeout(trial: Trial) -> None:
    """The queue's own, which has been lowered below the loader's; that goes with every receive, so no message comes twice."""
    trial.stub.control(visibility=0.5)
    trial.start(LOADER_MAX_HELD_MESSAGES=500)
    with commits_blocked(trial):
        trial.send()
        trial.wait_for_stub("handed out", 500)
        began = time.monotonic()
        trial.wait_for("it takes its time", lambda: time.monotonic() - began > (10 if FULL else 1))
        assert trial.landed() == 0
    trial.wait_until_loaded()
    assert trial.stub.stats().get("expired", 0) == 0
    assert trial.stub.stats()["handed out"] == trial.sent


def more_comes_than_may_be_held(trial: Trial) -> None:
    """One mebibyte is some 4,700 bodies of 225 bytes with what Python keeps around them. Nothing can land until they are held."""
    trial.start(LOADER_MAX_HELD_BYTES=1024**2, LOADER_MAX_HELD_MESSAGES=20_000)
    with commits_blocked(trial):
        trial.send(8_000)
        trial.wait_for_stub("in flight", 2_000)
        # A loader without the bound takes the rest in a part of this second.
        assert not processes.wait_until(lambda: trial.stub.stats()["in flight"] > 6_000, 1)
    trial.wait_until_loaded()
    assert trial.stub.stats()["most in flight"] < 6_000


def the_disk_is_full(trial: Trial) -> None:
    """Staging is in a small tablespace; nothing is deleted while it is full, and it goes on when there is room again."""
    partition, tablespace = f"staging.raw_logins_{time.strftime('%Y%m%d', time.gmtime())}", f"small_{trial.database.name}"
    disk, filler = trial.directory / "disk", trial.directory / "disk" / "filler"
    disk.mkdir()
    mount = ["/usr/bin/mount", "-t", "tmpfs", "-o", f"size={'24m' if FULL else '8m'}", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting a small file system takes root: {mounted.stderr.strip()}")
    with contextlib.ExitStack() as stack:
        stack.callback(subprocess.run, ["/usr/bin/umount", "--lazy", str(disk)], check=True)
        processes.own_by_unprivileged(disk)
        connection = stack.enter_context(trial.database.connect())
        connection.execute("select staging.ensure_partitions(array[current_date])")
        connection.execute(f"create tablespace {tablespace} location '{disk}'".encode())
        connection.execute(f"alter table {partition} set tablespace {tablespace}".encode())
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        filler.write_bytes(bytes(free - 400_000 if FULL else free - 100_000))
        trial.send()
        loader = trial.start()
        trial.wait_for("the disk is full", lambda: "SQLSTATE 53100" in loader.output)
        trial.proof["landed while it is full"] = trial.landed()
        assert trial.landed() < trial.sent
        assert not trial.lost()
        filler.unlink()
        trial.wait_until_loaded()
        connection.execute(f"alter table {partition} set tablespace pg_default".encode())
        connection.execute(f"drop tablespace {tablespace}".encode())


# ── what networks do to connections, on each leg in turn ─────────────────────────────────────────────────────────────

# What the proxy counts when it has happened, and what makes it happen.
TROUBLES: dict[str, tuple[str, Callable[[Proxy, Direction], None]]] = {
    "resets": ("broken", lambda proxy, _: proxy.reset()),
    "is half open": ("broken", Proxy.half_open),
    "delays": ("delayed", lambda proxy, direction: proxy.delay_seconds.update({direction: 5 if FULL else 0.2})),
    "stalls": ("stalled", lambda proxy, direction: proxy.stalled.add(direction)),
}


def network(trial: Trial, side: str, trouble: str) -> None:
    happened, make_trouble = TROUBLES[trouble]
    proxy = trial.to_postgres if side == "PostgreSQL" else trial.to_sqs

    def has_noticed() -> bool:
        # A reset of an idle connection to SQS is no trouble: it takes another one.
        has_reconnected = trouble != "stalls" and proxy.counts["connections"] > before["connections"]
        return has_reconnected or loader.output.count("trying again") > troubles

    trial.stub.control(round_trip=0.02)
    # A drain, for that does not leave a reply 20 s to come; it goes on for as long as there are messages.
    seconds, visibility = (30, 30) if trouble == "delays" else (1, 2)  # messages whose reply got lost are hidden for so long
    loader = trial.start("drain", LOADER_TIMEOUT_SECONDS=seconds, LOADER_VISIBILITY_SECONDS=visibility, LOADER_RECEIVERS=4)
    for direction in DIRECTIONS:
        landed = trial.landed()
        trial.send(IDS // 2)
        trial.wait_for("it loads", lambda: trial.landed() > landed)  # noqa: B023  # called here
        before, troubles = proxy.counts.copy(), loader.output.count("trying again")
        make_trouble(proxy, direction)
        enough = before[happened] + (5 if trouble == "delays" else 1)
        trial.wait_for(happened, lambda: proxy.counts[happened] >= enough)  # noqa: B023  # called here
        if trouble != "delays":
            trial.wait_for("the loader has noticed", has_noticed)
        if trouble != "is half open":
            proxy.heal()
        trial.proof[direction] = proxy.counts[happened] - before[happened]
    trial.wait_until_loaded()


# ── SQS refuses, forgets, repeats itself, disagrees about the time ───────────────────────────────────────────────────


def sqs_misbehaves(trial: Trial, proof: str, **behaviour: float) -> None:
    """*proof* is what the stub calls the fault when it has happened. Calls are repeated: no message has to come again."""
    trial.stub.control(**behaviour)
    trial.send()
    trial.start()
    trial.wait_for_stub(proof)
    trial.wait_until_loaded()
    assert trial.stub.stats().get("expired", 0) == 0


def the_same_message_comes_again(trial: Trial) -> None:
    """Twice in a reply, again at once under a new handle, and, after a crash before the delete, a day later by the loader's clock."""
    trial.stub.control(duplicate_rate=0.2, redeliver_rate=0.1)
    now = dt.datetime.now(dt.UTC)
    for days in (0, 1, 3):
        trial.send(IDS // 3 + 1, now - dt.timedelta(days=days))
    trial.kill(trial.load_until(after_commit, batch=5))
    assert trial.landed()
    trial.start(clock_hours=24)
    trial.wait_until_loaded()
    for proof in ("duplicated in a batch", "redelivered at once", "expired"):
        trial.wait_for_stub(proof)
    assert trial.database.value("select count(distinct tableoid) from staging.raw_logins") == 3
    trial.stub.control(duplicate_rate=0, redeliver_rate=0)


def the_clock_is_off(trial: Trial, hours: int) -> None:
    """The loader's, for which SQS refuses its signatures; what lands has the queue's time, on both sides of a midnight."""
    midnight = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    sent_at = {midnight - dt.timedelta(minutes=30), midnight + dt.timedelta(minutes=30)}
    trial.stub.control(checks_time=True)
    for one in sent_at:
        trial.send(IDS // 2, one)
    trial.start(clock_hours=hours)
    trial.wait_for_stub("refused for their time")
    trial.wait_for_stub("signed in time")
    trial.wait_until_loaded()
    landed = set(trial.database.rows("select distinct sent_at, tableoid::regclass::text from staging.raw_logins"))
    assert landed == {(one, f"staging.raw_logins_{one:%Y%m%d}") for one in sent_at}


def dead_letters_are_redriven(trial: Trial) -> None:
    """Messages that a crashing loader received too often come back from the dead-letter queue with new ids."""
    trial.stub.control(max_receives=2)
    trial.send(200)
    for _ in range(2):
        loader = trial.load_until(before_copy)
        trial.wait_for("all is received", lambda: trial.stub.stats().get("in flight") == trial.stub.stats()["left"])
        trial.kill(loader)
        trial.wait_for("all is visible again", lambda: trial.stub.stats()["in flight"] == 0)
    trial.send(IDS - 200)
    trial.finish()
    trial.wait_for_stub("dead")
    trial.stub.control(max_receives=0)
    trial.stub.redrive()
    trial.wait_for_stub("redriven")


KILLS: dict[str, Fault] = {
    "killed after receive": partial(killed, moment=before_copy),
    "killed mid-COPY": partial(killed, moment=mid_copy),
    "killed before commit": partial(killed, moment=before_commit),
    "killed between commit and delete": partial(killed, moment=after_commit),
    "killed mid-delete": killed_mid_delete,
}
STOPS: dict[str, Fault] = {
    "terminated under load": terminated_under_load,
    "terminated while commits hang": terminated_while_commits_hang,
    "four loaders come and go": four_loaders_come_and_go,
}
OTHERS: dict[str, Fault] = {
    "PostgreSQL crashes mid-COPY": partial(postgres_crashes, moment=mid_copy),
    "PostgreSQL crashes during COMMIT": partial(postgres_crashes, moment=before_commit),
    "a statement is cancelled mid-COPY": a_statement_is_cancelled_mid_copy,
    "backends are terminated": backends_are_terminated,
    "a commit outlasts the visibility time-out": a_commit_outlasts_the_visibility_timeout,
    "more comes than may be held": more_comes_than_may_be_held,
    "the disk is full": the_disk_is_full,
    **{
        f"the network to {side} {trouble}": partial(network, side=side, trouble=trouble)
        for side in ("PostgreSQL", "SQS")
        for trouble in TROUBLES
    },
    "the answers to deletes get lost": partial(sqs_misbehaves, proof="answers lost", lose_answer_rate=0.2),
    "single deletes fail": partial(sqs_misbehaves, proof="failed entries", entry_failure_rate=0.1),
    "SQS answers 500": partial(sqs_misbehaves, proof="errors", error_rate=0.1),
    "SQS throttles": partial(sqs_misbehaves, proof="throttled", throttle_rate=0.1),
    # After each refusal one receiver asks alone, so a higher rate takes long and shows no more.
    "too many messages are in flight": partial(sqs_misbehaves, proof="over limit", over_limit_rate=0.1),
    "the same message comes again": the_same_message_comes_again,
    "the clock is an hour fast": partial(the_clock_is_off, hours=1),
    "the clock is an hour slow": partial(the_clock_is_off, hours=-1),
    "dead letters are redriven": dead_letters_are_redriven,
}
TRIALS = [
    *(pytest.param(fault, seed, id=f"{name}-{seed}") for name, fault in KILLS.items() for seed in range(20 if FULL else 1)),
    *(pytest.param(fault, 0, id=name) for name, fault in STOPS.items()),
    *(pytest.param(fault, 0, id=name, marks=pytest.mark.slow) for name, fault in OTHERS.items()),
]


@pytest.mark.parametrize(("fault", "seed"), TRIALS)
def test_nothing_is_lost_when(trial: Trial, fault: Fault, seed: int) -> None:
    trial.random.seed(seed)
    survive(trial, fault)


def test_control_a_loader_that_deletes_before_the_commit_loses_messages(trial: Trial) -> None:
    """The kill alone costs them, so the same count can see a loss."""
    trial.without = ORDER
    KILLS["killed before commit"](trial)
    assert trial.lost()
