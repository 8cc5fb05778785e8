"""Reveal, rotate, erase and expire on 1,000,000 logins: 100,000 users, 60,000 addresses, 150,000 devices."""

import os
import threading
from collections import Counter
from collections.abc import Mapping

import pytest

from benchmarks.rotation import FILL, LOGINS, TRANSACTIONS
from sandbox.postgres import Postgres
from tests.recovery.conftest import Masked, Message, copy_of, login

CANARY = "canary-device-among-a-million"
# every eighth message is past retention
AGED = FILL.replace("number % 8", "case number % 8 when 0 then 40 else number % 8 end")
DAYS = "select staging.ensure_partitions(array_agg(day::date)) from generate_series(now() - interval '41 days', now(), '1 day') as day"
PICTURE = "select count(*), count(distinct masked_ip), count(distinct left(masked_ip, 3)) from analytics.user_logins"
SENT = """
    select distinct token, plain_value from marts.user_logins join staging.raw_logins using (message_id) cross join lateral (
        values (masked_ip, body::jsonb ->> 'ip'), (masked_device_id, body::jsonb ->> 'device_id')
    ) as sent (token, plain_value) where token = any (%(tokens)s)
"""
MATCHED = """
    select count(*), count(distinct old || ' ' || new), count(distinct old), count(distinct new)
    from public.before join marts.user_logins as after using (message_id) cross join lateral (
        values (before.masked_ip, after.masked_ip), (before.masked_device_id, after.masked_device_id)
    ) as tokens (old, new)
"""


@pytest.mark.timeout(1_200)
@pytest.mark.skipif(os.environ.get("FAULTS") != "full", reason="a million logins take minutes: make test-faults")
def test_every_act_of_recovery_does_on_a_million_logins_what_it_does_on_few(
    postgres_server: Postgres, passwords: Mapping[str, str], template: str
) -> None:
    for million in copy_of(postgres_server, passwords, template):
        with million.connect() as admin:
            admin.execute(DAYS.encode())
            each = LOGINS // TRANSACTIONS
            for first in range(0, LOGINS, each):
                admin.execute(AGED.replace(":first", str(first)).replace(":last", str(first + each - 1)).encode())
            admin.execute("analyze staging.raw_logins, staging.unjudged")
            million.land([login("user-canary", "2001:db8:ffff::2", CANARY, days_ago=40)])
            million.dbt("run")

            tokens = [token for (token,) in million.rows("select masked_ip from marts.user_logins limit 25")]
            tokens += [token for (token,) in million.rows("select masked_device_id from marts.user_logins limit 25")]
            sent = admin.execute(SENT, {"tokens": tokens}).fetchall()
            assert {token for token, _ in sent} == set(tokens)
            assert million.reveal(*tokens) == set(sent)

            admin.execute("create table public.before as select message_id, masked_ip, masked_device_id from marts.user_logins")
            pictures = rotated_while_analysts_look(million)
            assert len(pictures) == 1, pictures
            assert pictures.total() > 2
            assert million.rows(MATCHED) == [(2 * (LOGINS + 1), 210_002, 210_002, 210_002)]
            admin.execute("drop table public.before")

            query = "select message_id, sent_at, body from staging.raw_logins where body like '%\"user-777\"%'"
            of_person = [Message(*row) for row in million.rows(query)]
            assert len(of_person) == 10
            assert million.recovery("erase", stdin="user-777\n").startswith("erased: 10 raw messages, 10 logins")
            million.land([*of_person, login("user-777", "2001:db8:ffff::1", "device-new")])
            million.mask()
            assert million.value("select count(*) from marts.user_logins where user_id = 'user-777'") == 0
            assert million.rows(query) == []
            million.dbt("test", "--select", "assert_every_message_is_masked_or_rejected", "assert_no_erased_message_is_back")

            admin.execute("vacuum analyze")
            assert million.files_with(CANARY)
            million.recovery("expire")
            assert million.files_with(CANARY) == set()


def rotated_while_analysts_look(million: Masked) -> Counter[object]:
    """What two analysts saw, and how often, while the keys were rotated; an error that they met counts as a picture."""
    rotated, seen = threading.Event(), Counter[object]()

    def look() -> None:
        with million.connect("analyst") as analyst:
            while not rotated.is_set():
                try:
                    seen[analyst.execute(PICTURE.encode()).fetchone()] += 1
                except Exception as error:  # noqa: BLE001  # whatever they meet
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
    return seen
