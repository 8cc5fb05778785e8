"""PostgreSQL reads a large work list with parallel workers, and what comes of it is the same."""

from sandbox.sample_events import sample_events
from tests.judging.conftest import Warehouse

# However few the rows, though not for the handful of keys.
EAGER = {"parallel_setup_cost": "0", "min_parallel_table_scan_size": "'64kB'", "min_parallel_index_scan_size": "'64kB'"}


def judged(warehouse: Warehouse, workers: int) -> tuple[set[str], str]:
    """What awaits judgement, read, judged and masked with so many *workers* at most, and the plan's outline."""
    with warehouse.database.connect("transformer", autocommit=False) as connection:
        for setting, value in EAGER.items():
            connection.execute(f"set {setting} = {value}".encode())
        connection.execute(f"set max_parallel_workers_per_gather = {workers}".encode())
        statement = b"explain (analyze, costs off) create temporary table increment as select * from staging.unjudged_logins"
        outline = "\n".join(line for (line,) in connection.execute(statement).fetchall())
        rows = connection.execute("select increment::text from increment").fetchall()
        connection.rollback()
    return {row for (row,) in rows}, outline


def test_landed_rows_are_judged_and_masked_by_parallel_workers_and_come_to_the_same(warehouse: Warehouse) -> None:
    warehouse.dbt("run")
    warehouse.land({f"message-{number}": body for number, body in enumerate(sample_events())})

    alone, outline = judged(warehouse, 0)
    assert len(alone) > 900
    assert "Workers Launched" not in outline

    by_workers, outline = judged(warehouse, 2)
    assert by_workers == alone
    # a plan's outline goes from the top down: the bodies are read below the workers
    assert "Subquery Scan on judged" in outline.partition("Workers Launched: 2")[2], outline
