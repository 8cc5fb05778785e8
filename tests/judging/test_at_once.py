"""Writers that commit late, runs that overlap, runs that are killed: each message ends in one table, once.

`FAULTS=full` (`make test-faults`) kills each run at each stage, and starts two runs at once fifty times.
"""

import contextlib
import os
import random
import signal
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess

import psutil
import pytest

from sandbox.processes import wait_until
from tests.judging.conftest import GOOD, Warehouse
from tests.support import ended

pytestmark = pytest.mark.slow

FULL = os.environ.get("FAULTS") == "full"
PAIRS = 50 if FULL else 3
VICTIMS = ["the first", "nobody", "the second"]
# A run is stopped at one of its moments, by a trigger that waits for an advisory lock, the gate.
GATE = 7_201_904
WAIT_SECONDS = 60
FUNCTIONS = f"""
    create function public.wait_at_gate() returns trigger language plpgsql as
    $$ begin perform pg_advisory_xact_lock_shared({GATE}); return coalesce(new, old); end $$;
    create function public.wait_at_gate_of_definitions() returns event_trigger language plpgsql as
    $$ begin if session_user = 'transformer' then perform pg_advisory_xact_lock_shared({GATE}); end if; end $$;
"""
OF_A_ROW = "create trigger gate before {} for each row when ({}.message_id = '{}') execute function public.wait_at_gate()"
OF_A_COMMIT = (
    "create constraint trigger gate after insert on {} deferrable initially deferred for each row when (new.message_id = '{}') "
    "execute function public.wait_at_gate()"
)
OF_A_DEFINITION = "create event trigger gate on ddl_command_end when tag in ('{}') execute function public.wait_at_gate_of_definitions()"
# Half of the rows are written when a run comes to one of these.
MASKED_ID, REJECTED_ID = "good-250", "bad-25"
STAGES = {
    "making a month's partitions": OF_A_DEFINITION.format("CREATE TABLE"),
    "masking the increment": OF_A_DEFINITION.format("CREATE TABLE AS"),
    "writing user_logins": OF_A_ROW.format("insert on marts.user_logins", "new", MASKED_ID),
    "taking logins off the list": OF_A_ROW.format("delete on staging.unjudged", "old", MASKED_ID),
    "committing user_logins": OF_A_COMMIT.format("marts.user_logins", MASKED_ID),
    "writing rejected_logins": OF_A_ROW.format("insert on marts.rejected_logins", "new", REJECTED_ID),
    "taking rejections off the list": OF_A_ROW.format("delete on staging.unjudged", "old", REJECTED_ID),
    "committing rejected_logins": OF_A_COMMIT.format("marts.rejected_logins", REJECTED_ID),
    "making a view": OF_A_DEFINITION.format("CREATE VIEW"),
    "dropping the view of before": OF_A_DEFINITION.format("DROP VIEW"),
}
CASES = [(stage, victim) for number, stage in enumerate(STAGES) for victim in (VICTIMS if FULL else [VICTIMS[number % 3]])]
MESSAGES = 500


@contextlib.contextmanager
def gate(warehouse: Warehouse, stage: str) -> Iterator[None]:
    """Stop every run at *stage* until the block is left. A run over nothing has made the views before."""
    warehouse.dbt("run")
    with warehouse.database.connect() as holder:
        holder.execute(FUNCTIONS.encode())
        holder.execute(STAGES[stage].encode())
        holder.execute(f"select pg_advisory_lock({GATE})".encode())
        yield


def waits(warehouse: Warehouse, run: ForkServerProcess, *, at_gate: bool = False) -> bool:
    """Wait until *run*, in a transaction, waits for a lock or is at the gate; False when it ended instead."""
    assert run.pid is not None
    process = psutil.Process(run.pid)
    condition = "locktype = 'advisory'" if at_gate else "true"

    def is_waiting() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            ports = ",".join(str(connection.laddr.port) for connection in process.net_connections("tcp4"))
            waiting = f"select count(*) from pg_locks inner join pg_stat_activity using (pid) where not granted and {condition}"
            return bool(warehouse.database.value(f"{waiting} and client_port = any('{{{ports}}}')"))
        return False

    assert wait_until(lambda: is_waiting() or not run.is_alive(), WAIT_SECONDS)
    return run.is_alive()


def land(warehouse: Warehouse, prefix: str = "", count: int = MESSAGES) -> dict[str, str]:
    """Land *count* logins and a tenth as many bodies that are none, in an order of chance; return them by message id."""
    messages = [(f"{prefix}good-{number}", GOOD) for number in range(count)]
    messages += [(f"{prefix}bad-{number}", "oops") for number in range(count // 10)]
    random.Random(prefix).shuffle(messages)  # noqa: S311  # the same order in every run
    warehouse.land(dict(messages))
    return dict(messages)


def assert_each_has_its_outcome(warehouse: Warehouse, messages: dict[str, str]) -> None:
    """Each message is in the one table that it belongs in, once, and nothing waits."""
    good = sorted(message_id for message_id, body in messages.items() if body == GOOD)
    assert warehouse.places() == (good, sorted(messages.keys() - set(good)), [])


def test_open_transactions_hold_nothing_back_and_what_commits_late_is_taken_by_the_next_run(warehouse: Warehouse) -> None:
    """A mark on the newest landed_at that a run has seen, the control, loses it."""
    warehouse.land({"first": GOOD})
    with (
        warehouse.database.connect("loader", autocommit=False) as late,
        warehouse.database.server.connect() as elsewhere,
        warehouse.database.connect() as control,
        elsewhere.transaction(),
    ):
        elsewhere.execute("select pg_current_xact_id()")
        control.execute("create temporary table control as select message_id, landed_at from staging.raw_logins where false")
        take_by_mark = (
            "insert into control select message_id, landed_at from staging.raw_logins "
            "where landed_at > coalesce((select max(landed_at) from control), '-infinity')"
        )
        late.execute("insert into staging.raw_logins (message_id, sent_at, body) values ('late', now(), %s)", [GOOD])
        late.execute("insert into staging.unjudged (message_id, sent_at) values ('late', now())")
        warehouse.land({"after": GOOD, "bad": "oops"})
        warehouse.dbt("run")
        control.execute(take_by_mark)
        assert warehouse.places() == (["after", "first"], ["bad"], [])

        late.commit()
        warehouse.dbt("run")
        control.execute(take_by_mark)

        assert warehouse.places() == (["after", "first", "late"], ["bad"], [])
        assert control.execute("select message_id from control order by 1").fetchall() == [("after",), ("bad",), ("first",)]


@pytest.mark.parametrize(("stage", "victim"), CASES)
def test_two_runs_at_once_leave_each_message_once_whichever_is_killed_and_wherever(warehouse: Warehouse, stage: str, victim: str) -> None:
    """The first is stopped at a moment of its transaction, a message lands, and the second comes; then one, or none, is killed."""
    with gate(warehouse, stage):
        messages = land(warehouse)
        first = warehouse.start("run")
        assert waits(warehouse, first, at_gate=True), "the first must have come to the stage"
        messages |= land(warehouse, "in between ", 1)
        second = warehouse.start("run")
        assert waits(warehouse, second), "the second must have come while the first was in the middle"
        runs = {"the first": first, "the second": second}
        if victim in runs:
            killed = runs.pop(victim)
            killed.kill()
            assert ended(killed) == -signal.SIGKILL, "the fault must have happened"
    warehouse.end_well(*runs.values())

    warehouse.dbt("run")

    assert_each_has_its_outcome(warehouse, messages)


def test_two_runs_with_eight_threads_again_and_again_fail_never(warehouse: Warehouse) -> None:
    warehouse.dbt("run")
    messages: dict[str, str] = {}
    for number in range(PAIRS):
        messages |= land(warehouse, f"of-{number}-", 20)
        warehouse.end_well(*[warehouse.start("run", "--threads", "8") for _ in range(2)])

    assert_each_has_its_outcome(warehouse, messages)


def test_two_runs_that_do_not_wait_for_one_another_double_rows(warehouse: Warehouse) -> None:
    """The control of the tests above: without the lock, and without the list, the key and the note that would refuse the second."""
    judging = "dbt_project/macros/judging.sql"
    warehouse.edit(judging, "        lock table only marts.rejected_logins in share update exclusive mode;\n", "")
    warehouse.edit(judging, "current_setting('enable_hashjoin') =", "'neither' =")
    warehouse.edit(judging, "where model_name =", "where false and model_name =")
    warehouse.land({"earlier": GOOD})  # for the month's partitions, which the first would lock while it makes them
    with gate(warehouse, "writing user_logins"):
        warehouse.database.execute("alter table marts.user_logins drop constraint user_logins_pkey")
        land(warehouse)
        runs = [warehouse.start("run", "--select", "user_logins.sql") for _ in range(2)]
        at_gate = f"select count(*) from pg_locks where locktype = 'advisory' and objid = {GATE} and not granted"
        assert wait_until(lambda: bool(warehouse.database.value(at_gate) == 2), WAIT_SECONDS)
    for run in runs:
        ended(run)

    assert len(warehouse.places()[0]) == 1 + 2 * MESSAGES


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

        assert warehouse.places() == (["m1", "m3"], ["m2", "m4"], [])
        vacuum.execute("lock table only marts.rejected_logins in share update exclusive mode")
        run = warehouse.start("run")
        assert waits(warehouse, run), "the control: a run that wants such a lock waits"
        vacuum.rollback()
    warehouse.end_well(run)


def test_judging_again_while_runs_go_on_moves_each_message_once(warehouse: Warehouse) -> None:
    warehouse.limit_locale(1)
    messages = {f"m{number}": GOOD.replace("null", '"US"') for number in range(MESSAGES)}
    warehouse.land(messages)
    warehouse.dbt("run")
    assert warehouse.places() == ([], sorted(messages), [])
    warehouse.limit_locale(32)

    again = ("run-operation", "judge_again")
    warehouse.end_well(*[warehouse.start(*words) for words in (["run"], again, again, ["run"])])
    warehouse.dbt("run")

    assert warehouse.places() == (sorted(messages), [], [])


def test_a_run_reads_the_list_a_few_times_though_the_planner_takes_the_marts_for_empty(warehouse: Warehouse) -> None:
    """An ANALYZE that meets the insertion of a first run counts no row of it; the next run's statements are planned with that."""
    warehouse.land({f"old-{number}": GOOD for number in range(300)})
    warehouse.dbt("run")
    database = warehouse.database
    database.execute("vacuum analyze staging.raw_logins")
    database.execute("update pg_class set reltuples = 0, relpages = 9 where relname like 'user\\_logins\\_2%'")
    read = "select seq_scan from pg_stat_user_tables where relname = 'unjudged'"
    for count in (1, 0, 300):
        before = database.value(read)
        warehouse.land({f"{count}-{number}": GOOD for number in range(count)})
        warehouse.dbt("run", "--select", "marts")
        assert database.value(read) - before < 50
    assert len(warehouse.places()[0]) == 601
