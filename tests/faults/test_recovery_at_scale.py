"""Reveal, rotate, erase and expire on 1,000,000 logins: 100,000 users, 60,000 addresses, 150,000 devices."""

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from benchmarks.rotation import FILL, LOGINS, TRANSACTIONS
from sandbox.postgres import Postgres
from tests.recovery.conftest import Masked, Message, copy_of, login

# every eighth message is past retention
AGED = FILL.replace("number % 8", "case number % 8 when 0 then 40 else number % 8 end")
DAYS = "select staging.ensure_partitions(array_agg(day::date)) from generate_series(now() - interval '41 days', now(), '1 day') as day"
PICTURE = """
    select
        count(*), count(distinct masked_ip), count(distinct masked_device_id),
        count(distinct left(masked_ip, 3)), count(distinct left(masked_device_id, 3)),
        (select sum(logins * distinct_users) from analytics.shared_ips)
    from analytics.user_logins
"""
SENT = """
    select masked_ip, body::jsonb ->> 'ip'
    from marts.user_logins join staging.raw_logins using (message_id) where masked_ip = any (%(tokens)s)
    union
    select masked_device_id, body::jsonb ->> 'device_id'
    from marts.user_logins join staging.raw_logins using (message_id) where masked_device_id = any (%(tokens)s)
"""
MATCHED = """
    select count(*), count(distinct old || ' ' || new), count(distinct old), count(distinct new)
    from public.before join marts.user_logins as after using (message_id)
    cross join lateral (values
        (before.masked_ip, after.masked_ip), (before.masked_device_id, after.masked_device_id)
    ) as tokens (old, new)
"""

pytestmark = [
    pytest.mark.timeout(1_200),
    pytest.mark.skipif(os.environ.get("FAULTS") != "full", reason="a million logins take minutes: make test-faults"),
]


@pytest.fixture(scope="module")
def million(postgres_server: Postgres, passwords: Mapping[str, str], template: str) -> Iterator[Masked]:
    """A million logins, landed and masked; the tests share it and each looks at its own."""
    for made in copy_of(postgres_server, passwords, template):
        with made.connect() as admin:
            admin.execute(DAYS.encode())
            each = LOGINS // TRANSACTIONS
            for first in range(0, LOGINS, each):
                admin.execute(AGED.replace(":first", str(first)).replace(":last", str(first + each - 1)).encode())
            admin.execute("analyze staging.raw_logins, staging.unjudged")
        made.dbt("run")
        yield made


def test_a_reveal_among_a_million_gives_exactly_what_was_sent(million: Masked) -> None:
    tokens = [token for (token,) in million.rows("select masked_ip from marts.user_logins order by message_id limit 25")]
    tokens += [token for (token,) in million.rows("select masked_device_id from marts.user_logins order by message_id desc limit 25")]
    with million.connect() as admin:
        sent = admin.execute(SENT, {"tokens": tokens}).fetchall()
    assert {token for token, _ in sent} == set(tokens)
    assert million.reveal(*tokens) == set(sent)


def test_a_million_rotate_one_to_one_while_analysts_read(million: Masked) -> None:
    with million.connect() as admin:
        admin.execute("create table public.before as select message_id, masked_ip, masked_device_id from marts.user_logins")
    rotated, seen = threading.Event(), Counter[object]()

    def look() -> None:
        with million.connect("analyst") as analyst:
            while not rotated.is_set():
                try:
                    seen[analyst.execute(PICTURE.encode()).fetchone()] += 1
                except Exception as error:  # noqa: BLE001  # whatever an analyst meets is counted as another picture
                    seen[error] += 1

    analysts = [threading.Thread(target=look) for _ in range(2)]
    for analyst in analysts:
        analyst.start()
    try:
        million.recovery("rotate")
    finally:
        rotated.set()
        for analyst in analysts:
            analyst.join()
    assert len(seen) == 1, seen
    assert seen.total() > 2
    ((rows, pairs, old, new),) = million.rows(MATCHED)
    assert rows >= 2 * (LOGINS - 1_000)
    assert pairs == old == new >= 210_000
    with million.connect() as admin:
        admin.execute("drop table public.before")


def test_a_person_among_a_million_is_erased_and_stays_away(million: Masked) -> None:
    query = "select message_id, sent_at, body from staging.raw_logins where body like '%\"user-777\"%'"
    sent = [Message(*row) for row in million.rows(query)]
    assert len(sent) == 10
    assert million.recovery("erase", stdin="user-777\n").startswith("erased: 10 raw messages, 10 logins")
    million.land([*sent, login("user-777", "2001:db8:ffff::1", "device-new")])
    million.mask()
    assert million.value("select count(*) from marts.user_logins where user_id = 'user-777'") == 0
    assert million.rows(query) == []
    million.dbt("test", "--select", "assert_every_message_is_masked_or_rejected", "assert_no_erased_message_is_back")


def test_of_a_million_the_expired_are_in_no_data_file(million: Masked) -> None:
    canary = "canary-device-among-a-million"
    million.land([login("user-canary", "2001:db8:ffff::2", canary, days_ago=40)])
    million.mask()
    with million.connect() as admin:
        admin.execute("vacuum analyze")
    assert million.files_with(canary)
    million.recovery("expire")
    assert million.files_with(canary) == set()
