"""What an analyst waits for at ten million logins, as a multiple of one pass over all of them."""

import time

import psycopg

from benchmarks.harness import Bench, Result, measure
from benchmarks.transforming import prepared_dbt

LOGINS = 10_000_000
# 23 months, evenly; users, addresses and devices recur three or four times
MONTHS = """
    select staging.ensure_partition('marts.user_logins', to_char(month, 'YYYYMM'), month, month + interval '1 month')
    from generate_series(0, 23) as ages (age)
    cross join lateral (select date_trunc('month', now()) - age * interval '1 month' as month) as months
"""
FILL = """
    insert into marts.user_logins (
        user_id, device_type, masked_ip, masked_device_id, locale, app_version,
        create_date, ip_is_valid, masked_network, ip_country, ip_asn, app_version_parts, message_id, sent_at
    )
    select
        md5((place % 3000000)::text)::uuid::text, case when number % 3 = 0 then 'ios' else 'android' end,
        'v1:' || md5((place % 2500000)::text), 'v1:' || md5('d' || place % 4000000),
        (array['DE', 'US', 'BR', null])[1 + number % 4], number % 3 || '.' || number % 11,
        (sent_at at time zone 'UTC')::date, true, 'v1:' || md5('n' || place % 2500000 / 50), (array['DE', 'US', 'BR', 'JP'])[1 + place % 4],
        64496 + place % 16, array[number % 3, number % 11], number::text, sent_at
    from generate_series(1, %s::bigint) as numbers (number)
    cross join lateral (select number * 7919 as place, now() - (%s - number) * interval '6 seconds' as sent_at) as each
"""
ALL = "select count(user_id), count(masked_ip) from analytics.user_logins"
QUESTIONS = {
    "the logins of a day": "select * from analytics.user_logins where sent_at >= now() - interval '1 day'",
    "the logins of a user": "select * from analytics.user_logins where user_id = '{user_id}'",
    "bursts": "select * from analytics.bursts",
    "impossible_travel": "select * from analytics.impossible_travel",
    "freshness": "select * from analytics.freshness",
    "daily_reconciliation": "select * from analytics.daily_reconciliation",
    "user_activity of a user": "select * from analytics.user_activity where user_id = '{user_id}'",
    "version_sessions of a user": "select * from analytics.version_sessions where user_id = '{user_id}'",
    "the ten largest of shared_ips": "select * from analytics.shared_ips order by logins desc limit 10",
    "the ten largest of shared_devices": "select * from analytics.shared_devices order by logins desc limit 10",
    "daily_logins of a week": "select * from analytics.daily_logins where create_date > current_date - 7",
}
PASSES = 10  # what none of them may take longer than


@measure
def reading(bench: Bench) -> list[Result]:
    """What each view's question takes at ten million logins."""
    with prepared_dbt(bench) as dbt, bench.connect() as connection:
        dbt.run("run")
        connection.execute(MONTHS)
        connection.execute(FILL, [LOGINS, LOGINS])
        connection.execute("vacuum analyze marts.user_logins")
        (user_id,) = connection.execute("select user_id from marts.user_logins limit 1").fetchone() or ("",)
        connection.execute("set role analyst")
        one_pass = [_seconds(connection, ALL) for _ in range(bench.runs)]
        floor = sorted(one_pass)[len(one_pass) // 2]
        results = [
            Result(f"  {name}", "passes", [_seconds(connection, query.format(user_id=user_id)) / floor], at_most=PASSES)
            for name, query in QUESTIONS.items()
        ]
    return [Result("one pass over 10,000,000 logins", "s", one_pass, note="the floor"), *results]


def _seconds(connection: psycopg.Connection, query: str) -> float:
    started = time.perf_counter()
    connection.execute(query.encode()).fetchall()
    return time.perf_counter() - started
