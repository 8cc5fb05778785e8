"""Retention: days of raw messages go when they are old enough and judged, and nothing else does."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from psycopg import errors

from tests.recovery.conftest import Masked, Message, login, wait_until
from tests.support import dbt


def exists(masked: Masked, relation: str) -> bool:
    found: bool = masked.value(f"select to_regclass('{relation}') is not null")
    return found


def days(masked: Masked) -> list[date]:
    """The days that raw messages are kept of, oldest first."""
    tables = masked.rows("select inhrelid::regclass::text from pg_inherits where inhparent = 'staging.raw_logins'::regclass")
    return sorted(datetime.strptime(table, "staging.raw_logins_%Y%m%d").replace(tzinfo=UTC).date() for (table,) in tables)


def test_days_past_retention_are_dropped_and_their_logins_stay(masked: Masked, story: dict[str, Message]) -> None:
    logins = masked.value("select count(*) from marts.user_logins")
    kept = days(masked)
    assert exists(masked, story["old"].partition)

    said = masked.recovery("expire")

    assert said.splitlines()[-1] == "2 days expired"
    assert not exists(masked, story["old"].partition)
    assert not exists(masked, story["old shared"].partition)
    assert days(masked) == kept[2:]
    assert masked.value("select count(*) from marts.user_logins") == logins
    assert [details["raw_messages"] for (details,) in masked.rows("select details from recovery.audit order by entry")] == [2, 1]
    assert masked.recovery("expire") == "0 days expired\n"


def test_what_dbt_makes_of_a_days_row_type_does_not_keep_the_day(masked: Masked, story: dict[str, Message]) -> None:
    with masked.connect("transformer") as transformer:
        transformer.execute(f"create table analytics.hold (a integer, r {story['old'].partition})".encode())

    assert masked.recovery("expire").splitlines()[-1] == "2 days expired"

    assert not exists(masked, story["old"].partition)
    assert exists(masked, "analytics.hold")


def test_an_expired_value_can_no_longer_be_revealed(masked: Masked, story: dict[str, Message]) -> None:
    tokens = list(masked.tokens(story["old"]))
    for expected in (2, 0):
        with masked.connect("pii_requester") as requester, masked.connect("pii_approver") as approver:
            row = requester.execute("select recovery.request_reveal(%s, 'fraud', 'case 1')", (tokens,)).fetchone()
            approver.execute("select recovery.approve_reveal(%s)", row)
            requester.execute("select recovery.open_reveal(%s)", row)
            assert len(requester.execute("select recovery.read_reveal(%s)", row).fetchall()) == expected
        masked.recovery("expire")


def test_a_day_with_a_message_that_dbt_has_not_taken_stays_until_it_has(masked: Masked) -> None:
    late = login("u-late", "2001:db8:ffff::9", "canary-device-late", days_ago=45)
    masked.land([late])
    assert masked.recovery("expire").splitlines()[-1] == "2 days expired"
    assert exists(masked, late.partition)

    masked.mask()
    assert masked.recovery("expire").splitlines()[-1] == "1 days expired"
    assert masked.value("select count(*) from marts.user_logins where user_id = 'u-late'") == 1


def test_a_message_that_arrives_between_the_look_and_the_lock_is_not_dropped(masked: Masked, story: dict[str, Message]) -> None:
    late = replace(login("u-late", "2001:db8:ffff::9", "canary-device-late"), sent_at=story["old shared"].sent_at)
    refusals: list[str] = []
    with masked.connect("loader", autocommit=False) as loader, masked.connect("privacy_officer") as officer:
        loader.execute(
            "insert into staging.raw_logins (message_id, sent_at, body) values (%s, %s, %s)", (late.message_id, late.sent_at, late.body)
        )
        loader.execute("insert into staging.unjudged (message_id, sent_at) values (%s, %s)", (late.message_id, late.sent_at))

        def expire() -> None:
            with pytest.raises(errors.ObjectInUse) as caught:
                officer.execute("select recovery.expire_next()")
            refusals.append(str(caught.value))

        expiring = threading.Thread(target=expire)
        expiring.start()
        # control: the look is over, or it would not want the lock
        wait_until(masked, "select from pg_locks where not granted and mode = 'AccessExclusiveLock'")
        loader.commit()
        expiring.join()
    assert len(refusals) == 1
    assert "a message has just arrived" in refusals[0]
    assert exists(masked, late.partition)
    masked.mask()
    assert masked.recovery("expire").splitlines()[-1] == "2 days expired"
    assert masked.value("select count(*) from marts.user_logins where user_id = 'u-late'") == 1


def test_expiry_goes_on_beside_the_loader_and_dbt_and_nothing_of_theirs_fails(masked: Masked, story: dict[str, Message]) -> None:
    expired = threading.Event()
    landed: list[Message] = []

    def land() -> None:
        while not expired.is_set():
            one = login("u-meanwhile", "2001:db8:ffff::c", "d")
            masked.land([one])
            landed.append(one)

    with ThreadPoolExecutor() as others:
        landing, masking = others.submit(land), others.submit(masked.mask)
        said = masked.recovery("expire")
        masking.result()
        expired.set()
        landing.result()
    masked.mask()

    assert said.splitlines()[-1] == "2 days expired"
    assert not exists(masked, story["old"].partition)
    assert len(landed) > 10
    assert masked.value("select count(*) from marts.user_logins where user_id = 'u-meanwhile'") == len(landed)


def test_retention_is_a_setting_of_fourteen_days_at_least(masked: Masked) -> None:
    assert masked.recovery("retention") == "30\n"
    with masked.connect("privacy_officer") as officer, pytest.raises(errors.InvalidParameterValue, match="at least 14 days"):
        officer.execute("select recovery.set_retention(13)")
    masked.land([login("u-edge", "2001:db8:ffff::a", "d", days_ago=days_ago) for days_ago in range(11, 20)])
    masked.mask()

    assert masked.recovery("retention", "14") == "14\n"
    today = datetime.now(UTC).date()
    masked.recovery("expire")

    # midnight may have passed since
    assert today - timedelta(days=14) <= days(masked)[0] <= datetime.now(UTC).date() - timedelta(days=14)
    assert masked.rows("select details from recovery.audit where act = 'retention_set'") == [({"raw_days": 14},)]


def test_a_long_read_makes_expiry_give_way_and_the_loader_lands_meanwhile(masked: Masked, story: dict[str, Message]) -> None:
    oldest = story["old shared"].partition
    with masked.connect("transformer", autocommit=False) as dbt, masked.connect("privacy_officer") as officer:
        dbt.execute("select count(*) from staging.raw_logins")
        officer.execute("set lock_timeout = '200ms'")
        with pytest.raises(errors.LockNotAvailable):
            officer.execute("select recovery.expire_next()")
        masked.land([login("u-meanwhile", "2001:db8:ffff::c", "d")])
        assert exists(masked, oldest)
        dbt.rollback()
        # control: with the read over it goes
        officer.execute("select recovery.expire_next()")
    assert not exists(masked, oldest)


def detach(masked: Masked, partition: str) -> None:
    with masked.connect() as admin:
        admin.execute(f"alter table staging.raw_logins detach partition {partition}".encode())


def interrupt_detach(masked: Masked, partition: str) -> None:
    """Begin to detach *partition* of the raw messages concurrently, and cancel that while it waits for a reader."""
    with masked.connect("transformer", autocommit=False) as dbt, masked.connect() as admin:
        dbt.execute("select count(*) from staging.raw_logins")

        def detach() -> None:
            with pytest.raises(errors.QueryCanceled):
                admin.execute(f"alter table staging.raw_logins detach partition {partition} concurrently".encode())

        detaching = threading.Thread(target=detach)
        detaching.start()
        wait_until(masked, "select from pg_inherits where inhdetachpending")
        admin.cancel()
        detaching.join()
    assert masked.value("select count(*) from pg_inherits where inhdetachpending") == 1


def test_an_interrupted_detach_is_finished(masked: Masked, story: dict[str, Message]) -> None:
    oldest = story["old shared"].partition
    interrupt_detach(masked, oldest)
    assert masked.recovery("expire").splitlines()[-1] == "2 days expired"
    assert not exists(masked, oldest)


def test_a_detached_day_that_was_left_behind_is_dropped(masked: Masked, story: dict[str, Message]) -> None:
    oldest = story["old shared"].partition
    with masked.connect() as admin:
        admin.execute(f"alter table staging.raw_logins detach partition {oldest}".encode())
    masked.recovery("expire")
    assert not exists(masked, oldest)


def test_after_expiry_and_a_checkpoint_no_data_file_holds_the_value(masked: Masked) -> None:
    canaries = ("2001:db8:ffff::ca", "canary-device-bytes-2", "u-bytes-2")
    masked.land(
        [login("u-bytes-2", "2001:db8:ffff::ca", "canary-device-bytes-2", days_ago=40)]
        + [login("u-other", "2001:db8:ffff::ca", "canary-device-bytes-2", days_ago=40) for _ in range(200)]
    )
    masked.mask()
    with masked.connect() as admin:
        admin.execute("vacuum analyze")
    # control: they were there
    assert all(masked.files_with(canary) for canary in canaries)

    masked.recovery("expire")

    assert masked.files_with(canaries[0]) == set()
    assert masked.files_with(canaries[1]) == set()
    # user_logins stays, with its user_id
    assert masked.value("select count(*) from marts.user_logins where user_id = 'u-bytes-2'") == 1


def test_what_has_served_its_time_is_forgotten(masked: Masked, story: dict[str, Message]) -> None:
    token = masked.tokens(story["old"])[0]
    masked.recovery("erase", stdin="u-erased\n")
    with masked.connect("pii_requester") as requester, masked.connect("pii_approver") as approver:
        row = requester.execute("select recovery.request_reveal(%s, 'fraud', 'case 1')", ([token],)).fetchone()
        approver.execute("select recovery.approve_reveal(%s)", row)
        requester.execute("select recovery.open_reveal(%s)", row)
    with masked.connect() as admin:
        admin.execute("update recovery.reveals set expires_at = clock_timestamp()")
    counters = "select count(*) from pg_class where relkind = 'S' and relnamespace = 'recovery'::regnamespace"
    assert masked.value(counters) == 1
    assert masked.value("select count(*) from recovery.erased_messages") == 7

    masked.recovery("expire")

    assert masked.value(counters) == 0
    # the one of 41 days ago cannot be delivered again
    assert masked.value("select count(*) from recovery.erased_messages") == 6


@pytest.mark.parametrize("by_hand", [detach, interrupt_detach])
def test_loading_and_judging_go_on_when_todays_partition_was_detached_by_hand_and_the_count_shows_it(
    masked: Masked, by_hand: Callable[[Masked, str], None]
) -> None:
    one, two = (login(f"u-{number}", "192.0.2.8", "d") for number in range(2))
    masked.land([one])
    by_hand(masked, one.partition)
    counts = "assert_every_listed_message_has_its_body"
    done = dbt(masked.database, ["test", "--select", counts], masked.target)
    assert f"FAIL 1 {counts}" in done.stdout, done.stdout

    # the loader makes the partition of a day that it finds missing: here it attaches the one that is there
    masked.land([two])
    masked.mask()

    assert masked.value("select count(*) from marts.user_logins where user_id in ('u-0', 'u-1')") == 2
    masked.dbt("test", "--select", counts, "assert_every_message_is_masked_or_rejected")


def test_a_detached_day_with_an_unjudged_message_stays(masked: Masked) -> None:
    late = login("u-late", "2001:db8:ffff::9", "canary-device-late", days_ago=45)
    masked.land([late])
    detach(masked, late.partition)
    assert masked.recovery("expire").splitlines()[-1] == "2 days expired"
    assert exists(masked, late.partition)


def test_an_analyst_who_holds_advisory_locks_stops_nothing(masked: Masked) -> None:
    """Anybody may take those; so nothing of the pipeline waits for one."""
    with masked.connect("analyst") as analyst:
        # those of the first edition among them
        keys = ["0", "1", *(f"hashtextextended('{name}', 0)" for name in ("recovery.audit", "recovery.rotation", "migrate"))]
        for key in keys:
            analyst.execute(f"select pg_advisory_lock({key})".encode())
        # control: they are held
        assert not masked.value("select pg_try_advisory_lock(hashtextextended('recovery.audit', 0))")
        masked.land([login("u-locked", "192.0.2.8", "d")])
        masked.mask()
        with masked.connect("privacy_officer") as officer:
            officer.execute("set statement_timeout = '30s'")
            for act in ("erase('{u-locked}')", "rotate()", "expire_next()", "set_retention(40)"):
                officer.execute(f"select recovery.{act}".encode())
        # no function waits for one
        assert masked.rows("select proname from pg_proc where prosrc ~ 'advisory' and pronamespace::regnamespace::text !~ '^pg_'") == []
