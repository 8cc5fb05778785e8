"""Moments of a `dbt run`: a run is stopped at one, by a trigger in the database, until the gate is opened."""

import contextlib
from collections.abc import Iterator
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
