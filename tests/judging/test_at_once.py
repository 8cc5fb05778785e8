"""Writers that commit late, runs that overlap, runs that are killed: each message ends in one table, once.

`FAULTS=full` (`make test-faults`) tries ten seeds, and two runs at once fifty times.
"""

import contextlib
import os
import random
import signal
from multiprocessing.context import ForkServerProcess

import psutil
import pytest

from sandbox.processes import wait_until
from tests.judging.conftest import GOOD, RUN_TIMEOUT_SECONDS, Project, Warehouse
from tests.judging.stages import GATE, STAGES, WAIT_SECONDS, comes_to, gate, transactions, waits

pytestmark = pytest.mark.slow

FULL = os.environ.get("FAULTS") == "full"
SEEDS = range(10 if FULL else 2)
PAIRS = 50 if FULL else 3
VICTIMS = ["the first", "nobody", "the second"]
CASES = [
    pytest.param(name, seed, VICTIMS[(seed + number) % 3], id=f"{name}, seed {seed}, {VICTIMS[(seed + number) % 3]} killed")
    for number, name in enumerate(STAGES)
    for seed in range(10 if FULL else 1)
]
MESSAGES = 500


def test_a_message_that_commits_late_is_taken_by_the_next_run_and_a_mark_on_the_newest_loses_it(warehouse: Warehouse) -> None:
    """The mark, on the newest landed_at that a run has seen, is the control."""
    warehouse.land({"first": GOOD})
    with warehouse.database.connect("loader", autocommit=False) as late, warehouse.database.connect() as control:
        control.execute("create temporary table control as select message_id, landed_at from staging.raw_logins where false")
        take_by_mark = (
            "insert into control select message_id, landed_at from staging.raw_logins "
            "where landed_at > coalesce((select max(landed_at) from control), '-infinity')"
        )
        late.execute("insert into staging.raw_logins (message_id, sent_at, body) values ('late', now(), %s)", [GOOD])
        late.execute("insert into staging.unjudged (message_id, sent_at) values ('late', now())")
        warehouse.land({"after": GOOD})
        warehouse.dbt("run")
        control.execute(take_by_mark)
        assert warehouse.masked() == ["after", "first"]

        late.commit()
        warehouse.dbt("run")
        control.execute(take_by_mark)

        assert warehouse.masked() == ["after", "first", "late"]
        assert control.execute("select message_id from control order by 1").fetchall() == [("after",), ("first",)]


def test_an_open_transaction_in_this_or_another_database_holds_nothing_back(warehouse: Warehouse) -> None:
    with warehouse.database.server.connect() as elsewhere, warehouse.database.connect(autocommit=False) as here:
        elsewhere.autocommit = False
        for forgotten in (elsewhere, here):
            forgotten.execute("select pg_current_xact_id()")
        here.execute("select count(*) from staging.raw_logins")
        warehouse.land({"m1": GOOD, "m2": "oops"})

        warehouse.dbt("run")

        assert (warehouse.masked(), list(warehouse.rejected()), warehouse.waiting()) == (["m1"], ["m2"], [])
        elsewhere.rollback()
        here.rollback()
        elsewhere.autocommit = True


@pytest.mark.parametrize(("name", "seed", "victim"), CASES)
def test_two_runs_at_once_leave_each_message_once_whichever_is_killed_and_wherever(
    warehouse: Warehouse, name: str, seed: int, victim: str
) -> None:
    """The first is stopped at a moment of its transaction and the second comes after it; then one, or none, is killed."""
    chance = random.Random(seed)  # noqa: S311  # the same messages in every run
    with gate(warehouse, STAGES[name]):
        messages = land(warehouse, chance)
        first = warehouse.start("run")
        comes_to(warehouse, first, STAGES[name])
        second = warehouse.start("run")
        assert waits(warehouse, second), "the second must have come while the first was in the middle"
        runs = {"the first": first, "the second": second}
        if victim in runs:
            kill(runs.pop(victim))
    for run in runs.values():
        run.join(RUN_TIMEOUT_SECONDS)
        assert run.exitcode == 0, [path.read_text() for path in warehouse.outputs()]

    warehouse.dbt("run")

    assert_each_has_its_outcome(warehouse, messages)


def test_two_runs_with_eight_threads_again_and_again_fail_never(warehouse: Warehouse) -> None:
    warehouse.dbt("run")
    messages: dict[str, str] = {}
    for number in range(PAIRS):
        messages |= land(warehouse, random.Random(number), f"of-{number}-", 20)  # noqa: S311  # the same messages in every run
        runs = [warehouse.start("run", "--threads", "8") for _ in range(2)]
        for run in runs:
            run.join(RUN_TIMEOUT_SECONDS)
        assert [run.exitcode for run in runs] == [0, 0], [path.read_text() for path in warehouse.outputs()[-2:]]

    assert_each_has_its_outcome(warehouse, messages)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_killed_at_any_moment_leaves_each_message_once(warehouse: Warehouse, seed: int) -> None:
    """It is stopped again and again; the first time that it is in a transaction after some such times, it is killed."""
    chance = random.Random(seed)  # noqa: S311  # the same choice in every run
    messages: dict[str, str] = {}
    moments = chance.randint(0, 20)
    killed = None
    while killed is None:
        messages |= land(warehouse, chance, f"of-{len(messages)}-")
        killed = killed_in_a_transaction(warehouse, moments, chance)
        moments = moments // 2
    print(f"seed {seed}: killed in {killed}")

    warehouse.dbt("run")

    assert_each_has_its_outcome(warehouse, messages)


def test_two_runs_that_do_not_wait_for_one_another_double_rows(project: Project) -> None:
    """The control of the tests above: without the lock, and without the list and the key that would refuse the second."""
    warehouse = project.warehouse
    judging = "dbt_project/macros/judging.sql"
    project.replace(judging, "        lock table only marts.rejected_logins in share update exclusive mode;\n", "")
    project.replace(judging, "where unjudged.message_id = judged", "where false and unjudged.message_id = judged")
    warehouse.land({"earlier": GOOD})  # for the month's partitions, which the first would lock while it makes them
    with gate(warehouse, STAGES["writing user_logins"]):
        warehouse.execute("alter table marts.user_logins drop constraint user_logins_pkey")
        land(warehouse, random.Random(0))  # noqa: S311  # the same messages in every run
        runs = [project.start("run", "--select", "user_logins.sql") for _ in range(2)]
        at_gate = f"select count(*) from pg_locks where locktype = 'advisory' and objid = {GATE} and not granted"
        assert wait_until(lambda: bool(warehouse.database.value(at_gate) == 2), WAIT_SECONDS)
    for run in runs:
        run.join(RUN_TIMEOUT_SECONDS)

    assert len(warehouse.masked()) == 1 + 2 * MESSAGES


def test_what_lands_while_a_run_writes_is_left_to_the_next_run(warehouse: Warehouse) -> None:
    stage = STAGES["committing user_logins"]
    with gate(warehouse, stage):
        messages = land(warehouse, random.Random(0))  # noqa: S311  # the same messages in every run
        run = warehouse.start("run")
        comes_to(warehouse, run, stage)
        warehouse.land({"good in between": GOOD})
        assert "good in between" in warehouse.waiting()
    run.join(RUN_TIMEOUT_SECONDS)
    assert run.exitcode == 0
    assert list(warehouse.outcomes()) == sorted(messages)

    warehouse.dbt("run")

    assert_each_has_its_outcome(warehouse, messages | {"good in between": GOOD})


def test_a_run_neither_waits_for_vacuum_nor_makes_autovacuum_give_way(warehouse: Warehouse) -> None:
    """Autovacuum gives way to who waits for its lock, which conflicts with that of every CREATE INDEX, ALTER TABLE and COMMENT."""
    warehouse.land({"m1": GOOD, "m2": "oops"})
    warehouse.dbt("run")
    tables = warehouse.database.rows(
        "select oid::regclass::text from pg_class where relkind = 'r' and relnamespace::regnamespace::text in ('staging', 'marts')"
    )
    assert len(tables) >= 4
    with warehouse.database.connect(autocommit=False) as vacuum:
        for (table,) in tables:
            vacuum.execute(f"lock table {table} in share update exclusive mode".encode())
        warehouse.land({"m3": GOOD, "m4": "oops"})

        warehouse.dbt("run")

        assert (warehouse.masked(), list(warehouse.rejected())) == (["m1", "m3"], ["m2", "m4"])
        vacuum.execute("lock table only marts.rejected_logins in share update exclusive mode")
        run = warehouse.start("run")
        assert waits(warehouse, run), "the control: a run that wants such a lock waits"
        vacuum.rollback()
    run.join(RUN_TIMEOUT_SECONDS)
    assert run.exitcode == 0


def test_judging_again_while_runs_go_on_moves_each_message_once(project: Project) -> None:
    warehouse = project.warehouse
    project.replace("database/6_fields.sql", "('locale', 'locale', 32", "('locale', 'locale', 1")
    project.migrate()
    messages = {f"m{number}": GOOD.replace("null", '"US"') for number in range(MESSAGES)}
    warehouse.land(messages)
    warehouse.dbt("run")
    assert len(warehouse.rejected()) == MESSAGES
    project.replace("database/6_fields.sql", "('locale', 'locale', 1", "('locale', 'locale', 32")
    project.migrate()

    runs = [warehouse.start("run"), warehouse.start("run-operation", "judge_again"), warehouse.start("run-operation", "judge_again")]
    runs.append(warehouse.start("run"))
    for run in runs:
        run.join(RUN_TIMEOUT_SECONDS)
    assert [run.exitcode for run in runs] == [0] * 4, [path.read_text() for path in warehouse.outputs()]
    warehouse.dbt("run")

    assert (warehouse.masked(), warehouse.rejected(), warehouse.waiting()) == (sorted(messages), {}, [])


def assert_each_has_its_outcome(warehouse: Warehouse, messages: dict[str, str]) -> None:
    """Each message is in the one table that it belongs in, once, and nothing waits."""
    rejected = sorted(message_id for message_id, body in messages.items() if body == "oops")
    assert list(warehouse.outcomes()) == sorted(messages)
    assert list(warehouse.rejected()) == rejected
    assert warehouse.waiting() == []


def land(warehouse: Warehouse, chance: random.Random, prefix: str = "", count: int = MESSAGES) -> dict[str, str]:
    """Land *count* logins and a tenth as many bodies that are none, in an order of chance; return them by message id."""
    messages = {f"{prefix}good-{number}": GOOD for number in range(count)}
    messages |= {f"{prefix}bad-{number}": "oops" for number in range(count // 10)}
    shuffled = list(messages.items())
    chance.shuffle(shuffled)
    warehouse.land(dict(shuffled))
    return messages


def kill(run: ForkServerProcess) -> None:
    """End *run* with SIGKILL."""
    assert run.pid is not None
    os.kill(run.pid, signal.SIGKILL)
    run.join(RUN_TIMEOUT_SECONDS)
    assert run.exitcode == -signal.SIGKILL, "the fault must have happened"


def killed_in_a_transaction(warehouse: Warehouse, moments: int, chance: random.Random) -> list[str] | None:
    """Start a run and stop it every now and then; let it go on *moments* times when it is in a transaction, kill it the next time.

    Returns the statements of its open transactions, or None when the run ended before.
    """
    run = warehouse.start("run")
    assert run.pid is not None
    process = psutil.Process(run.pid)
    seen = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        while run.is_alive():
            run.join(chance.uniform(0, 0.05))
            process.suspend()
            assert wait_until(lambda: process.status() == psutil.STATUS_STOPPED, WAIT_SECONDS)
            # stopped, it cannot commit: what is in a transaction now stays in it
            statements = transactions(warehouse, run)
            seen += bool(statements)
            if seen > moments:
                kill(run)
                return statements
            process.resume()
    run.join()
    assert run.exitcode == 0
    return None
