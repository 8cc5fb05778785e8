"""PostgreSQL reads a large work list with parallel workers, and what comes of it is the same."""

from sandbox.sample_events import sample_events
from tests.judging.conftest import Warehouse

# However few the rows, though not for the handful of keys.
EAGER = "set parallel_setup_cost = 0; set min_parallel_table_scan_size = '64kB'; set min_parallel_index_scan_size = '64kB'"


def test_landed_rows_are_judged_and_masked_by_parallel_workers_and_come_to_the_same(warehouse: Warehouse) -> None:
    warehouse.dbt("run")
    warehouse.land({f"message-{number}": body for number, body in enumerate(sample_events())})
    judged, outlines = [], []
    for workers in (0, 2):
        with warehouse.database.connect("transformer") as connection:
            connection.execute(f"{EAGER}; set max_parallel_workers_per_gather = {workers}".encode())
            statement = b"explain (analyze, costs off) create temporary table increment as select * from staging.unjudged_logins"
            outlines.append("\n".join(line for (line,) in connection.execute(statement).fetchall()))
            judged.append(set(connection.execute("select increment::text from increment").fetchall()))

    assert len(judged[0]) > 900
    assert judged[0] == judged[1]
    assert "Workers Launched" not in outlines[0]
    # a plan's outline goes from the top down: the bodies are read below the workers
    assert "Subquery Scan on judged" in outlines[1].partition("Workers Launched: 2")[2], outlines[1]
