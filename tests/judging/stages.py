"""Moments of a `dbt run`: a run is stopped at one, by what hangs in the database, until the gate is opened."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess

import psutil

from sandbox.processes import wait_until
from tests.judging.conftest import Warehouse

GATE = 7_201_904  # the advisory lock that whoever comes to the gate waits for
WAIT_SECONDS = 60

FUNCTIONS = f"""
    create function public.wait_at_gate() returns trigger language plpgsql as
    $$ begin perform pg_advisory_xact_lock_shared({GATE}); return new; end $$;
    create function public.wait_at_gate_of_definitions() returns event_trigger language plpgsql as
    $$ begin if current_user = 'transformer' then perform pg_advisory_xact_lock_shared({GATE}); end if; end $$;
"""


@dataclass(frozen=True)
class Stage:
    """Where a run stops: the trigger that stops it there, what the server is doing for it then, and how the run before it was run."""

    trigger: str
    statement: str
    is_first_run: bool = False
    before: tuple[str, ...] = ()


def _row(table: str, message_id: str) -> str:
    condition = f"when (new.message_id = '{message_id}')"
    return f"create trigger gate before insert on marts.{table} for each row {condition} execute function public.wait_at_gate()"


def _commit(table: str, message_id: str) -> str:
    condition = f"deferrable initially deferred for each row when (new.message_id = '{message_id}')"
    return f"create constraint trigger gate after insert on marts.{table} {condition} execute function public.wait_at_gate()"


def _watermark(consumer: str, column: str) -> str:
    condition = f"when (new.consumer = '{consumer}' and new.{column} <> old.{column})"
    return f"create trigger gate before update on staging.watermarks for each row {condition} execute function public.wait_at_gate()"


def _definition(tag: str) -> str:
    return f"create event trigger gate on ddl_command_end when tag in ('{tag}') execute function public.wait_at_gate_of_definitions()"


# Half of the rows are written when a run comes to one of these.
MASKED_ID, REJECTED_ID = "good-250", "bad-25"
STAGES = {
    "making the tables": Stage(_definition("CREATE TABLE"), r"do \$create\$", is_first_run=True),
    "masking the increment": Stage(_definition("CREATE TABLE AS"), "create temporary table increment"),
    "writing user_logins": Stage(_row("user_logins", MASKED_ID), r'insert into "\w+"\."marts"\."user_logins"'),
    "closing the window of user_logins": Stage(_watermark("user_logins", "taken_before"), "close_window"),
    "committing user_logins": Stage(_commit("user_logins", MASKED_ID), "^COMMIT$"),
    "between the models": Stage(_watermark("rejected_logins", "window_before"), "open_window"),
    "writing rejected_logins": Stage(_row("rejected_logins", REJECTED_ID), r'insert into "\w+"\."marts"\."rejected_logins"'),
    "closing the window of rejected_logins": Stage(_watermark("rejected_logins", "taken_before"), "close_window"),
    "committing rejected_logins": Stage(_commit("rejected_logins", REJECTED_ID), "^COMMIT$"),
    "making a view": Stage(_definition("CREATE VIEW"), "create (temporary )?view", is_first_run=True),
    "comparing a view": Stage(_definition("CREATE VIEW"), "create temporary view"),
    "replacing a view": Stage(_definition("DROP VIEW"), "drop view if exists", before=("--vars", '{"min_group_users": 6}')),
    "dropping what it was compared with": Stage(_definition("DROP VIEW"), 'drop view "pg_temp"'),
}


@contextlib.contextmanager
def gate(warehouse: Warehouse, stage: Stage) -> Iterator[None]:
    """Stop every run at *stage* until the block is left. What is to be there before, a run over nothing has made."""
    if not stage.is_first_run:
        warehouse.dbt("run", *stage.before)
    with warehouse.database.connect() as holder:
        holder.execute(FUNCTIONS.encode())
        holder.execute(stage.trigger.encode())
        holder.execute(f"select pg_advisory_lock({GATE})".encode())
        yield


def comes_to(warehouse: Warehouse, run: ForkServerProcess, stage: Stage) -> None:
    """Wait until *run* is at the gate, and see that it is where *stage* says, in the middle of a transaction."""
    at_gate = f"select pid from pg_locks where locktype = 'advisory' and objid = {GATE} and not granted"

    def statements() -> list[str]:
        return [query for query in transactions(warehouse, run, f"pid in ({at_gate})") if re.search(stage.statement, query)]

    assert wait_until(lambda: bool(statements()) or not run.is_alive(), WAIT_SECONDS)
    assert statements(), "the run must have come to the stage"


def waits(warehouse: Warehouse, run: ForkServerProcess) -> bool:
    """Wait until *run* waits for a lock in a transaction of its own; False when it ended instead."""
    assert wait_until(lambda: bool(transactions(warehouse, run, "wait_event_type = 'Lock'")) or not run.is_alive(), WAIT_SECONDS)
    return run.is_alive()


def transactions(warehouse: Warehouse, run: ForkServerProcess, condition: str = "true") -> list[str]:
    """The statements of *run*'s sessions that are in a transaction and of which *condition* is true."""
    assert run.pid is not None
    try:
        ports = [connection.laddr.port for connection in psutil.Process(run.pid).net_connections("tcp4")]
    except psutil.NoSuchProcess:
        return []
    query = f"select query from pg_stat_activity where xact_start is not null and usename = 'transformer' and {condition}"
    return [row[0] for row in warehouse.database.rows(f"{query} and client_port = any('{{{','.join(map(str, ports))}}}')")]
