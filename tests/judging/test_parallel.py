"""PostgreSQL reads a large window with parallel workers, and what comes of it is the same."""

import pytest

from sandbox.sample_events import sample_events
from tests.judging.conftest import Warehouse

MODELS = ("user_logins", "rejected_logins")
# however few the rows
EAGER = ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size", "min_parallel_index_scan_size")


def judged(warehouse: Warehouse, model: str, workers: int, fence: str = "limit all") -> tuple[set[str], bool]:
    """What the model selects with so many *workers* at most and its parse fenced off by *fence*; whether workers parsed and judged."""
    compiled = warehouse.outputs()[-1].parent / f"target/compiled/user_logins/models/marts/{model}.sql"
    statement = compiled.read_text().replace("limit all --", f"{fence} --")
    with warehouse.database.connect("transformer", autocommit=False) as connection:
        for cost in EAGER:
            connection.execute(f"set {cost} = 0".encode())
        connection.execute(f"set max_parallel_workers_per_gather = {workers}".encode())
        connection.execute(f"select staging.open_window('{model}')".encode())
        plan = connection.execute(f"explain (analyze, costs off) create temporary table increment as {statement}".encode()).fetchall()
        outline = "\n".join(line for (line,) in plan)
        rows = connection.execute("select increment::text from increment").fetchall()
        connection.rollback()
    # a plan's outline goes from the top down
    below = outline.partition("Workers Launched: 2")[2]
    return {row for (row,) in rows}, "Subquery Scan on parsed" in below


@pytest.mark.parametrize("model", MODELS)
def test_landed_rows_are_judged_by_parallel_workers_and_come_to_the_same(warehouse: Warehouse, model: str) -> None:
    warehouse.dbt("run")
    warehouse.land({f"message-{number}": body for number, body in enumerate(sample_events())})

    alone, by_workers = judged(warehouse, model, 0)
    assert len(alone) > 900
    assert not by_workers

    assert judged(warehouse, model, 2) == (alone, True)
    # the control: the fence that many use keeps workers out
    assert judged(warehouse, model, 2, "offset 0") == (alone, False)
