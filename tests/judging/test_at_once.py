"""Writers that commit late, runs that overlap, runs that are killed: each message ends in one table, once.

`FAULTS=full` tries ten seeds, and keeps the late writer open for 30 seconds.
"""

import os
import random
import signal
import time

import pytest

from sandbox.processes import wait_until
from tests.judging.conftest import RUN_TIMEOUT_SECONDS, Warehouse
from tests.judging.test_judging_again import GOOD

FULL = os.environ.get("FAULTS") == "full"
SEEDS = range(10 if FULL else 2)
OPEN_SECONDS = 30 if FULL else 0
LATER_COMMITS = 1000
MESSAGES = 500
WAIT_SECONDS = 60

# A mark on the newest id seen, as many pipelines have it.
CONTROL = """
    insert into control
    select message_id, landed_xid from staging.raw_logins
    where landed_xid > coalesce((select landed_xid from control order by landed_xid desc limit 1), '0')
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


@pytest.mark.parametrize("seed", SEEDS)
def test_two_runs_at_once_one_of_them_killed_leave_each_message_once(warehouse: Warehouse, seed: int) -> None:
    """First runs, so they race to make the tables as well; one is killed while it waits in the middle of a model."""
    chance = random.Random(seed)  # noqa: S311  # the same moments in every run
    messages = {f"m{number}": GOOD if chance.random() < 0.9 else "oops" for number in range(MESSAGES)}
    warehouse.land(messages)
    # the model at which the killed one stands: both wait for its watermark, or for the row that it is about to write
    table = chance.choice(["user_logins", "rejected_logins"])
    at = chance.choice(["its watermark", "a row"])
    database = warehouse.database
    with database.connect(autocommit=False) as blocker:
        if at == "its watermark":
            blocker.execute(
                "insert into staging.watermarks (consumer, system_identifier) select %s, system_identifier from pg_control_system()",
                [table],
            )
        else:
            warehouse.dbt("run")  # makes the tables; what follows is new
            more = {f"more{number}": GOOD if chance.random() < 0.9 else "oops" for number in range(MESSAGES)}
            warehouse.land(more)
            messages |= more
            blocker.execute(f"lock table marts.{table} in exclusive mode")
        runs = [warehouse.start("run"), warehouse.start("run")]
        assert wait_until(lambda: _waiting(warehouse) >= 1, WAIT_SECONDS)
        killed = chance.choice(runs)
        assert killed.pid is not None
        os.kill(killed.pid, signal.SIGKILL)
        killed.join(RUN_TIMEOUT_SECONDS)
        assert killed.exitcode == -signal.SIGKILL, "the fault must have happened"
        assert sorted(warehouse.outcomes()) != sorted(messages), "it was killed in the middle"
    survivor = next(run for run in runs if run is not killed)
    survivor.join(RUN_TIMEOUT_SECONDS)
    assert survivor.exitcode == 0, [path.read_text() for path in warehouse.outputs()]

    warehouse.dbt("run")

    assert list(warehouse.outcomes()) == sorted(messages)
    assert list(warehouse.rejected()) == sorted(message_id for message_id, body in messages.items() if body == "oops")


def test_two_first_runs_at_once_both_succeed(warehouse: Warehouse) -> None:
    warehouse.land({f"m{number}": GOOD for number in range(MESSAGES)} | {"bad": "oops"})

    runs = [warehouse.start("run") for _ in range(2)]
    for run in runs:
        run.join(RUN_TIMEOUT_SECONDS)

    assert [run.exitcode for run in runs] == [0, 0], [path.read_text() for path in warehouse.outputs()]
    assert len(warehouse.masked()) == MESSAGES
    assert list(warehouse.rejected()) == ["bad"]


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


def _waiting(warehouse: Warehouse) -> int:
    """How many of dbt's sessions wait for a lock."""
    return int(warehouse.database.value("select count(*) from pg_stat_activity where usename = 'transformer' and wait_event_type = 'Lock'"))
