"""Moments of a `dbt run`: a run is stopped at one, by a trigger in the database, until the gate is opened."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess

import psutil

from sandbox.processes import wait_until
from tests.judging.conftest import Warehouse

GATE = 7_201_904  # the advisory lock that a trigger waits for
WAIT_SECONDS = 60

FUNCTIONS = f"""
    create function public.wait_at_gate() returns trigger language plpgsql as
    $$ begin perform pg_advisory_xact_lock_shared({GATE}); return coalesce(new, old); end $$;
    create function public.wait_at_gate_of_definitions() returns event_trigger language plpgsql as
    $$ begin if session_user = 'transformer' then perform pg_advisory_xact_lock_shared({GATE}); end if; end $$;
"""


@dataclass(frozen=True)
class Stage:
    """Where a run stops: the trigger that stops it, and what the server does for the run at that moment."""

    trigger: str
    statement: str


def _row(event: str, table: str, message_id: str) -> str:
    row = "old" if event == "delete" else "new"
    condition = f"when ({row}.message_id = '{message_id}')"
    return f"create trigger gate before {event} on {table} for each row {condition} execute function public.wait_at_gate()"


def _commit(table: str, message_id: str) -> str:
    condition = f"deferrable initially deferred for each row when (new.message_id = '{message_id}')"
    return f"create constraint trigger gate after insert on marts.{table} {condition} execute function public.wait_at_gate()"


def _definition(tag: str) -> str:
    return f"create event trigger gate on ddl_command_end when tag in ('{tag}') execute function public.wait_at_gate_of_definitions()"


# Half of the rows are written when a run comes to one of these.
MASKED_ID, REJECTED_ID = "good-250", "bad-25"
STAGES = {
    "making a month's partitions": Stage(_definition("CREATE TABLE"), r"staging\.begin_judging\(\)"),
    "masking the increment": Stage(_definition("CREATE TABLE AS"), "create temporary table"),
    "writing user_logins": Stage(_row("insert", "marts.user_logins", MASKED_ID), r'insert into "\w+"\."marts"\."user_logins"'),
    "taking logins off the list": Stage(_row("delete", "staging.unjudged", MASKED_ID), r"delete from staging\.unjudged"),
    "committing user_logins": Stage(_commit("user_logins", MASKED_ID), "^COMMIT$"),
    "writing rejected_logins": Stage(
        _row("insert", "marts.rejected_logins", REJECTED_ID), r'insert into "\w+"\."marts"\."rejected_logins"'
    ),
    "taking rejections off the list": Stage(_row("delete", "staging.unjudged", REJECTED_ID), r"delete from staging\.unjudged"),
    "committing rejected_logins": Stage(_commit("rejected_logins", REJECTED_ID), "^COMMIT$"),
    "making a view": Stage(_definition("CREATE VIEW"), "create view"),
    "dropping the view of before": Stage(_definition("DROP VIEW"), "drop %s if exists"),
}


@contextlib.contextmanager
def gate(warehouse: Warehouse, stage: Stage) -> Iterator[None]:
    """Stop every run at *stage* until the block is left. A run over nothing has made the views before."""
    warehouse.dbt("run")
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
    """Wait until *run* waits for a lock in a transaction; False when it ended instead."""
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
