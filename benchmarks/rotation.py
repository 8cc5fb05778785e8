"""What rotating the masking keys costs, per million logins."""

import time

from benchmarks.harness import ROOT, Bench, Result, measure, run

LOGINS = 1_000_000
TRANSACTIONS = 20
FILL = """
    with

    incoming as (
        select
            gen_random_uuid()::text as message_id,
            now() - make_interval(days => number % 8) as sent_at,
            format(
                '{"user_id": "user-%s", "app_version": "2.3.%s", "device_type": "ios", '
                '"ip": "2001:db8::%s", "locale": null, "device_id": "device-%s"}',
                number * 7 % 100000, number % 10, to_hex(number % 60000), number * 11 % 150000
            ) as body
        from generate_series(:first, :last) as series (number)
    ),

    listed as (
        insert into staging.unjudged (message_id, sent_at) select message_id, sent_at from incoming
    )

    insert into staging.raw_logins (message_id, sent_at, body) select message_id, sent_at, body from incoming
"""


@measure
def rotation(bench: Bench) -> list[Result]:
    """Rotate the keys of a million logins, each run from the version before: 60,000 addresses, 150,000 devices."""
    environment = bench.environment | {"DBT_PROFILES_DIR": str(ROOT / "dbt_project" / "profiles")}
    each = LOGINS // TRANSACTIONS
    with bench.connect() as connection:
        connection.execute("truncate staging.raw_logins, staging.unjudged, marts.user_logins, marts.rejected_logins")
        connection.execute(
            "select staging.ensure_partitions(array_agg(day::date)) from generate_series(now() - interval '8 days', now(), '1 day') as day"
        )
        for first in range(0, LOGINS, each):
            connection.execute(FILL.replace(":first", str(first)).replace(":last", str(first + each - 1)).encode())
        connection.execute("analyze staging.raw_logins")
    run(["python", "-m", "dbt.cli.main", "run", "--project-dir", "dbt_project", "--select", "user_logins", "rejected_logins"], environment)

    seconds = []
    for _ in range(bench.runs):
        started = time.monotonic()
        run(["python", "-m", "recovery", "rotate"], environment)
        seconds.append(time.monotonic() - started)
    return [Result("rotation of 1,000,000 logins", "s", seconds)]
