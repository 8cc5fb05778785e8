"""Writers that commit late, runs that overlap, runs that are killed: each message ends in one table, once.

`FAULTS=full` (`make test-faults`) tries ten seeds, and keeps the late writer open for 30 seconds.
"""

import contextlib
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerProcess

import psutil
import pytest

from sandbox.processes import wait_until
from tests.judging.conftest import RUN_TIMEOUT_SECONDS, Warehouse
from tests.judging.stages import STAGES, WAIT_SECONDS, comes_to, gate, transactions, waits
from tests.judging.test_judging_again import GOOD

FULL = os.environ.get("FAULTS") == "full"
SEEDS = range(10 if FULL else 2)
VICTIMS = ["the first", "nobody", "the second"]
CASES = [
    pytest.param(name, seed, VICTIMS[(seed + number) % 3], id=f"{name}, seed {seed}, {VICTIMS[(seed + number) % 3]} killed")
    for number, name in enumerate(STAGES)
    for seed in range(10 if FULL else 1)
]
OPEN_SECONDS = 30 if FULL else 0
LATER_COMMITS = 1000
MESSAGES = 500

# A mark on the newest id seen, as many pipelines have it.
CONTROL = """
    insert into control
    select message_id, landed_xid from staging.raw_logins
    where landed_xid > coalesce((select landed_xid from control order by landed_xid desc limit 1), '0')
"""


# Two mistakes in staging's functions, for controls. The first moves the mark, in a sequence, whether or not the run's transaction
# commits; in the second each run goes by what it sees, and waits for nobody.
WATERMARK_OUTSIDE = """
    create sequence staging.mark_of_user_logins minvalue 0;
    create sequence staging.mark_of_rejected_logins minvalue 0;
    grant all on all sequences in schema staging to transformer;
    create or replace function staging.open_window(consumer text, upstream text default null) returns void language plpgsql as $$
    declare
        mark constant regclass := 'staging.mark_of_' || consumer;
    begin
        perform set_config('staging.window_from', coalesce(pg_sequence_last_value(mark), 0)::text, true);
        perform set_config('staging.window_before', pg_snapshot_xmin(pg_current_snapshot())::text, true);
        perform setval(mark, pg_snapshot_xmin(pg_current_snapshot())::text::bigint);
    end $$;
    create or replace function staging.landed_from() returns xid8 language sql stable
    return current_setting('staging.window_from')::xid8;
    create or replace function staging.landed_before() returns xid8 language sql stable
    return current_setting('staging.window_before')::xid8;
    create or replace function staging.close_window() returns void language sql begin atomic end;
"""
WINDOW_UNLOCKED = """
    alter table marts.user_logins drop constraint user_logins_pkey;
    alter table marts.rejected_logins drop constraint rejected_logins_pkey;
    create or replace function staging.open_window(consumer text, upstream text default null) returns void language sql
    begin atomic select set_config('staging.consumer', consumer, true); end;
    create or replace function staging.landed_before() returns xid8 language sql stable
    return pg_snapshot_xmin(pg_current_snapshot());
    create or replace function staging.close_window() returns void language sql begin atomic
        update staging.watermarks set taken_before = pg_snapshot_xmin(pg_current_snapshot())
        where consumer = current_setting('staging.consumer');
    end;
"""


def test_a_writer_that_commits_late_loses_nothing_and_a_mark_on_the_newest_id_does(warehouse: Warehouse) -> None:
    database = warehouse.database
    warehouse.land({"first": GOOD})
    with (
        database.connect(autocommit=False) as late,
        database.connect() as writer,
        database.connect() as control,
    ):
        control.execute("create temporary table control (message_id text, landed_xid xid8)")
        late.execute("insert into staging.raw_logins (message_id, sent_at, body) values ('late', now(), %s)", [GOOD])
        opened = time.monotonic()
        written, runs = 0, 0
        while written < LATER_COMMITS or time.monotonic() - opened < OPEN_SECONDS:
            for _ in range(LATER_COMMITS // 10 if FULL else LATER_COMMITS):
                if written < LATER_COMMITS:
                    writer.execute(
                        "insert into staging.raw_logins (message_id, sent_at, body) values (%s, now(), %s)", [f"m{written}", GOOD]
                    )
                    written += 1
            warehouse.dbt("run")
            runs += 1
            control.execute(CONTROL)
            assert warehouse.masked() == ["first"], "nothing may be taken over the head of the one that is open"
        late.commit()
        warehouse.dbt("run")
        control.execute(CONTROL)

        expected = sorted(["first", "late", *(f"m{number}" for number in range(LATER_COMMITS))])
        assert warehouse.masked() == expected
        taken_by_control = [row[0] for row in control.execute("select message_id from control").fetchall()]
        assert "late" not in taken_by_control
        assert len(taken_by_control) == LATER_COMMITS + 1


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

    assert list(warehouse.outcomes()) == sorted(messages)
    assert list(warehouse.rejected()) == sorted(message_id for message_id, body in messages.items() if body == "oops")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_killed_at_any_moment_leaves_each_message_once(warehouse: Warehouse, seed: int) -> None:
    """It is stopped again and again; the first time that it stands in a transaction after some such times, it is killed."""
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

    assert list(warehouse.outcomes()) == sorted(messages)
    assert list(warehouse.rejected()) == sorted(message_id for message_id, body in messages.items() if body == "oops")


def test_a_watermark_outside_the_transaction_loses_what_a_killed_run_had_taken(warehouse: Warehouse) -> None:
    """The control of the two above."""
    stage = STAGES["writing user_logins"]
    with gate(warehouse, stage):
        replace_functions(warehouse, WATERMARK_OUTSIDE)
        land(warehouse, random.Random(0))  # noqa: S311  # the same messages in every run
        run = warehouse.start("run")
        comes_to(warehouse, run, stage)
        kill(run)

    warehouse.dbt("run")

    assert warehouse.masked() == []


def test_two_runs_that_do_not_wait_for_one_another_double_rows(warehouse: Warehouse) -> None:
    """The control of the same: without the lock on the watermark, and without the key that would refuse the second."""
    stage = STAGES["writing user_logins"]
    with gate(warehouse, stage):
        replace_functions(warehouse, WINDOW_UNLOCKED)
        land(warehouse, random.Random(0))  # noqa: S311  # the same messages in every run
        runs = [warehouse.start("run"), warehouse.start("run")]
        for run in runs:
            comes_to(warehouse, run, stage)
    for run in runs:
        run.join(RUN_TIMEOUT_SECONDS)

    assert len(warehouse.masked()) == 2 * len(set(warehouse.masked())) > 0


def test_a_run_that_waited_takes_what_landed_while_it_waited(warehouse: Warehouse) -> None:
    """So that its window begins where the other's ended: opened before the wait, it would end before that."""
    warehouse.database.rows("select staging.open_window('user_logins')", "transformer")  # the row to wait for
    with warehouse.database.connect("transformer", autocommit=False) as first:
        first.execute("select from staging.watermarks where consumer = 'user_logins' for update")
        with warehouse.database.connect("transformer", autocommit=False) as second, ThreadPoolExecutor(1) as thread:
            opened = thread.submit(second.execute, b"select staging.open_window('user_logins')")
            assert wait_until(lambda: _waiting(warehouse) == 1, WAIT_SECONDS)
            warehouse.land({"landed": GOOD})
            first.commit()
            opened.result()
            taken = second.execute(
                "select landed_xid >= staging.landed_from() and landed_xid < staging.landed_before() from staging.raw_logins"
            ).fetchall()

    assert taken == [(True,)]


def test_what_lands_while_user_logins_is_written_is_left_to_the_next_run(warehouse: Warehouse) -> None:
    """rejected_logins goes by the window of user_logins: by one of its own it would reject what that has not seen."""
    stage = STAGES["committing user_logins"]
    with gate(warehouse, stage):
        messages = land(warehouse, random.Random(0))  # noqa: S311  # the same messages in every run
        run = warehouse.start("run")
        comes_to(warehouse, run, stage)
        warehouse.land({"in between": GOOD})
    run.join(RUN_TIMEOUT_SECONDS)
    assert run.exitcode == 0
    assert list(warehouse.outcomes()) == sorted(messages)

    warehouse.dbt("run")

    assert "in between" in warehouse.masked()
    assert list(warehouse.outcomes()) == sorted([*messages, "in between"])


def test_a_view_that_is_the_same_is_left_to_its_readers(warehouse: Warehouse) -> None:
    """A run that dropped it would wait for each reader's transaction, and who comes to read would wait behind."""
    warehouse.dbt("run")
    views = "select oid, relname from pg_class where relnamespace = 'analytics'::regnamespace and relkind = 'v' order by relname"
    before = warehouse.database.rows(views)
    assert len(before) == 4
    with warehouse.database.connect("analyst", autocommit=False) as reader:
        for _, name in before:
            reader.execute(f"select count(*) from analytics.{name}".encode())
        warehouse.dbt("run")
        assert warehouse.database.rows(views) == before

        run = warehouse.start("run", "--vars", '{"min_group_users": 6}')
        assert waits(warehouse, run), "the control: a view that is to be another has to wait"
        reader.rollback()
    run.join(RUN_TIMEOUT_SECONDS)
    assert run.exitcode == 0
    after = warehouse.database.rows(views)
    assert [name for (oid, name) in after if (oid, name) not in before] == ["daily_logins"]


@pytest.mark.parametrize(
    "change",
    [
        "alter view analytics.daily_logins reset (security_barrier)",
        "create or replace view analytics.daily_logins with (security_barrier) as select {columns} from marts.user_logins where false",
        "drop view analytics.daily_logins",
        "drop view analytics.daily_logins; create table analytics.daily_logins as select {columns}",
        "grant select on analytics.daily_logins to loader",
        "drop view analytics.daily_logins; create materialized view analytics.daily_logins as select {columns}",
        "grant select on analytics.daily_logins to public",
        "grant update on analytics.daily_logins to analyst",
        (
            "grant select (create_date), update (logins) on analytics.daily_logins to loader; "
            "grant select (logins) on analytics.daily_logins to public"
        ),
        (
            "grant select on analytics.daily_logins to analyst with grant option; "
            "set role analyst; grant select on analytics.daily_logins to loader"
        ),
        "revoke select on analytics.daily_logins from analyst",
    ],
)
def test_a_view_that_was_changed_by_hand_is_put_right(warehouse: Warehouse, change: str) -> None:
    warehouse.dbt("run")
    definition = (
        "select relkind, reloptions, relacl::text, array(select attacl::text from pg_attribute where attrelid = pg_class.oid), "
        "pg_get_viewdef(oid) from pg_class where oid = to_regclass('analytics.daily_logins')"
    )
    before = warehouse.database.rows(definition)
    columns = warehouse.database.value(
        "select string_agg(format('null::%s as %I', format_type(atttypid, atttypmod), attname), ', ' order by attnum) "
        "from pg_attribute where attrelid = 'analytics.daily_logins'::regclass"
    )
    with warehouse.database.connect() as connection:
        connection.execute("set role transformer")
        connection.execute(change.format(columns=columns).encode())
    assert warehouse.database.rows(definition) != before

    warehouse.dbt("run")

    assert warehouse.database.rows(definition) == before


def test_a_table_in_the_search_path_is_not_taken_for_the_increment(warehouse: Warehouse) -> None:
    warehouse.dbt("run")
    with warehouse.database.connect("transformer") as connection:
        connection.execute("create table marts.increment as select * from marts.user_logins")
        connection.execute(f"alter role transformer in database {warehouse.database.name} set search_path = marts, pg_temp".encode())
    warehouse.land({"landed": GOOD})

    warehouse.dbt("run")

    assert warehouse.masked() == ["landed"]


def test_judging_again_while_runs_go_on_moves_each_message_once(warehouse: Warehouse) -> None:
    warehouse.land({f"m{number}": GOOD for number in range(MESSAGES)})
    warehouse.dbt("run", "--vars", '{"max_body_bytes": 60}')
    assert len(warehouse.rejected()) == MESSAGES

    runs = [warehouse.start("run"), warehouse.start("run-operation", "judge_again"), warehouse.start("run-operation", "judge_again")]
    runs.append(warehouse.start("run"))
    for run in runs:
        run.join(RUN_TIMEOUT_SECONDS)
    assert [run.exitcode for run in runs] == [0] * 4, [path.read_text() for path in warehouse.outputs()]
    warehouse.dbt("run")

    assert len(warehouse.masked()) == MESSAGES
    assert warehouse.rejected() == {}


def land(warehouse: Warehouse, chance: random.Random, prefix: str = "") -> dict[str, str]:
    """Land some 500 logins and 50 bodies that are none, in an order of chance; return them by message id."""
    messages = {f"{prefix}good-{number}": GOOD for number in range(MESSAGES)}
    messages |= {f"{prefix}bad-{number}": "oops" for number in range(MESSAGES // 10)}
    shuffled = list(messages.items())
    chance.shuffle(shuffled)
    warehouse.land(dict(shuffled))
    return messages


def kill(run: ForkServerProcess) -> None:
    """End *run* as it stands, with SIGKILL."""
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


def replace_functions(warehouse: Warehouse, statements: str) -> None:
    """Change the database's own functions, as *statements* say."""
    with warehouse.database.connect() as connection:
        connection.execute(statements.encode())


def _waiting(warehouse: Warehouse) -> int:
    """How many of dbt's sessions wait for a lock."""
    return int(warehouse.database.value("select count(*) from pg_stat_activity where usename = 'transformer' and wait_event_type = 'Lock'"))
