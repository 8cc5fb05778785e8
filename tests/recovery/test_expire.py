"""Retention: days of raw messages go when they are old enough and judged, and nothing else does."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import pytest
from psycopg import errors

from tests.recovery.conftest import Masked, Message, login


def expire(masked: Masked) -> str:
    """The last line of what the command says."""
    return masked.recovery("expire").splitlines()[-1]


def days(masked: Masked) -> list[date]:
    """The days that raw messages are kept of, oldest first, detached ones included."""
    day = "to_date(right(relname, 8), 'YYYYMMDD')"
    return [row[0] for row in masked.rows(f"select {day} from pg_class where relname ~ '^raw_logins_[0-9]+$' and relkind = 'r' order by 1")]


def late_logins(masked: Masked) -> int:
    count: int = masked.value("select count(*) from marts.user_logins where user_id = 'u-late'")
    return count


def test_days_past_retention_go_with_all_bytes_of_their_values_and_their_logins_stay(masked: Masked, story: dict[str, Message]) -> None:
    tokens = masked.tokens(story["old"])
    ip, device = "2001:db8:ffff::ca", "canary-device-bytes-2"
    # often enough for ANALYZE to note it, were it let
    masked.land([login("u-bytes-2", ip, device, days_ago=40) for _ in range(200)])
    masked.mask()
    masked.execute("vacuum analyze")
    logins, kept = masked.value("select count(*) from marts.user_logins"), days(masked)
    # controls: they are there
    assert len(masked.reveal(*tokens)) == 2
    assert all(masked.files_with(canary) for canary in (ip, device))
    # what dbt makes of a day's row type does not keep the day
    masked.execute(f"create table analytics.hold (a integer, r {story['old'].partition})", role="transformer")

    assert expire(masked) == "2 days expired"

    assert days(masked) == kept[2:]
    assert masked.files_with(ip) == masked.files_with(device) == set()
    assert masked.reveal(*tokens) == set()
    assert masked.value("select to_regclass('analytics.hold') is not null")
    assert masked.value("select count(*) from marts.user_logins") == logins
    expired = masked.rows("select details from recovery.audit where act = 'expired' order by entry")
    assert [details["raw_messages"] for (details,) in expired] == [2, 201]
    assert expire(masked) == "0 days expired"


def test_a_day_with_a_message_that_dbt_has_not_judged_stays_until_it_has(masked: Masked) -> None:
    late, detached = (login("u-late", days_ago=days_ago) for days_ago in (45, 46))
    masked.land([late, detached])
    detach(masked, detached.partition)
    assert expire(masked) == "2 days expired"
    assert days(masked)[:2] == [detached.sent_at.date(), late.sent_at.date()]

    masked.mask()

    assert expire(masked) == "1 days expired"
    assert days(masked)[0] == detached.sent_at.date()
    assert late_logins(masked) == 1


def test_a_message_that_arrives_between_the_look_and_the_lock_is_not_dropped(masked: Masked, story: dict[str, Message]) -> None:
    key, before = ("late", story["old shared"].sent_at), days(masked)
    with masked.connect("loader", autocommit=False) as loader, ThreadPoolExecutor() as officers:
        body = login("u-late").body
        loader.execute("insert into staging.raw_logins (message_id, sent_at, body) values (%s, %s, %s)", (*key, body))
        loader.execute("insert into staging.unjudged (message_id, sent_at) values (%s, %s)", key)
        expiring = officers.submit(masked.execute, "select recovery.expire_next()", "privacy_officer")
        # control: the look is over, or it would not want the lock
        masked.wait_until("select from pg_locks where not granted and mode = 'AccessExclusiveLock'")
        loader.commit()
        with pytest.raises(errors.ObjectInUse, match="a message has just arrived"):
            expiring.result()
    assert days(masked) == before


def test_expiry_goes_on_beside_the_loader_and_dbt_and_nothing_of_theirs_fails(masked: Masked) -> None:
    expired = threading.Event()
    landed: list[Message] = []

    def land() -> None:
        while not expired.is_set():
            landed.append(login("u-late"))
            masked.land(landed[-1:])

    with ThreadPoolExecutor() as others:
        landing, masking = others.submit(land), others.submit(masked.mask)
        said = expire(masked)
        masking.result()
        expired.set()
        landing.result()
    masked.mask()

    assert said == "2 days expired"
    assert len(landed) > 10
    assert late_logins(masked) == len(landed)


def test_retention_is_a_setting_of_fourteen_days_at_least(masked: Masked) -> None:
    assert masked.recovery("retention") == "30\n"
    masked.land([login("u-edge", days_ago=days_ago) for days_ago in range(11, 20)])
    masked.mask()

    assert masked.recovery("retention", "14") == "14\n"
    today = datetime.now(UTC).date()
    expire(masked)

    # midnight may have passed since
    assert today - timedelta(days=14) <= days(masked)[0] <= datetime.now(UTC).date() - timedelta(days=14)
    assert masked.rows("select details from recovery.audit where act = 'retention_set'") == [({"raw_days": 14},)]


def detach(masked: Masked, partition: str) -> None:
    masked.execute(f"alter table staging.raw_logins detach partition {partition}")


def interrupt_detach(masked: Masked, partition: str) -> None:
    """Begin to detach *partition* of the raw messages concurrently, and give up while it waits for a reader."""
    with masked.connect("transformer", autocommit=False) as dbt, masked.connect() as admin:
        dbt.execute("select count(*) from staging.raw_logins")
        admin.execute("set statement_timeout = '1s'")
        with pytest.raises(errors.QueryCanceled):
            admin.execute(f"alter table staging.raw_logins detach partition {partition} concurrently".encode())
    assert masked.value("select count(*) from pg_inherits where inhdetachpending") == 1


@pytest.mark.parametrize("by_hand", [detach, interrupt_detach])
def test_a_partition_that_was_detached_by_hand_stops_neither_loading_nor_judging_nor_expiry(
    masked: Masked, story: dict[str, Message], by_hand: Callable[[Masked, str], None]
) -> None:
    today, counts = login("u-late"), "assert_every_listed_message_has_its_body"
    masked.land([today])
    by_hand(masked, today.partition)
    # the count shows it
    with pytest.raises(AssertionError, match=f"FAIL 1 {counts}"):
        masked.dbt("test", "--select", counts)

    # the loader makes the partition of a day that it finds missing: here it attaches the one that is there
    masked.land([login("u-late")])
    masked.mask()

    assert late_logins(masked) == 2
    masked.dbt("test", "--select", counts, "assert_every_message_is_masked_or_rejected")
    before = days(masked)
    by_hand(masked, story["old shared"].partition)
    assert expire(masked) == "2 days expired"
    assert days(masked) == before[2:]


def test_what_has_served_its_time_is_forgotten(masked: Masked, story: dict[str, Message]) -> None:
    masked.opened(masked.tokens(story["old"])[0])
    masked.recovery("erase", stdin="u-erased\n")
    masked.execute("update recovery.reveals set expires_at = clock_timestamp()")
    counters = "select count(*) from pg_class where relkind = 'S' and relnamespace = 'recovery'::regnamespace"
    messages = "select count(*) from recovery.erased_messages"
    assert (masked.value(counters), masked.value(messages)) == (1, 7)

    expire(masked)

    # the message of 41 days ago cannot be delivered again
    assert (masked.value(counters), masked.value(messages)) == (0, 6)


def test_an_analyst_who_holds_advisory_locks_stops_nothing(masked: Masked) -> None:
    """Anybody may take those; so nothing of the pipeline waits for one."""
    with masked.connect("analyst") as analyst:
        # those of the first edition among them
        names = "values ('recovery.audit'), ('recovery.rotation'), ('migrate')"
        analyst.execute(f"select pg_advisory_lock(0), pg_advisory_lock(hashtextextended(name, 0)) from ({names}) as them (name)".encode())
        # control: they are held
        assert not masked.value("select pg_try_advisory_lock(hashtextextended('recovery.audit', 0))")
        masked.land([login("u-locked")])
        masked.mask()
        for act in ("erase('{u-locked}')", "rotate()", "expire_next()", "set_retention(40)"):
            masked.execute(f"select recovery.{act}", role="privacy_officer")
