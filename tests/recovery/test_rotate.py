"""Rotating the keys: every token changes one to one, at one moment, and the old keys are gone."""

import threading
from collections import Counter
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.recovery.conftest import Masked, Message, login

TOKENS = "select message_id, masked_ip, masked_device_id from marts.user_logins"
# nobody is two people: one version at a time, and as many logins, addresses, devices and shared ones as before
PICTURE = """
    select
        count(*), count(distinct masked_ip), count(distinct masked_device_id),
        count(distinct split_part(masked_ip, ':', 1)), count(distinct split_part(masked_device_id, ':', 1)),
        (select array_agg((logins, distinct_users)::text order by logins, distinct_users) from analytics.shared_ips),
        (select array_agg((logins, distinct_users)::text order by logins, distinct_users) from analytics.shared_devices)
    from analytics.user_logins
"""


def pairs(before: list[tuple[str, ...]], after: list[tuple[str, ...]]) -> set[tuple[str, str]]:
    """Old and new token of each login's address and device."""
    new = {message_id: tokens for message_id, *tokens in after}
    assert len(new) == len(before)
    return {(old, changed) for message_id, *tokens in before for old, changed in zip(tokens, new[message_id], strict=True)}


def expire_now(masked: Masked) -> None:
    assert masked.recovery("expire").splitlines()[-1] == "2 days expired"


def test_every_token_changes_one_to_one(masked: Masked) -> None:
    before = masked.rows(TOKENS)
    said = masked.recovery("rotate")
    after = masked.rows(TOKENS)

    matched = pairs(before, after)
    assert len(matched) == len({old for old, _ in matched}) == len({new for _, new in matched})
    assert all(old.startswith("v1:") and new.startswith("v2:") and old[3:] != new[3:] for old, new in matched)
    assert said.startswith("rotation begun\n")
    assert f"{len(before)} logins changed" in said
    assert "\n0 logins keep" in said


def test_the_new_tokens_are_those_that_the_masker_gives(masked: Masked, story: dict[str, Message]) -> None:
    masked.recovery("rotate")
    tokens = "select masking.token('ip', '2001:db8:ffff::2'), masking.token('device_id', 'canary-device-shared')"
    assert masked.tokens(story["new shared"]) == masked.tokens(story["old shared"]) == masked.rows(tokens, "transformer")[0]


def test_a_value_can_be_revealed_by_its_new_token_and_no_longer_by_the_old(masked: Masked, story: dict[str, Message]) -> None:
    old = masked.tokens(story["old"])[0]
    masked.recovery("rotate")
    new = masked.tokens(story["old"])[0]
    with masked.connect("pii_requester") as requester, masked.connect("pii_approver") as approver:
        row = requester.execute("select recovery.request_reveal(%s, 'fraud', 'case 1')", ([old, new],)).fetchone()
        approver.execute("select recovery.approve_reveal(%s)", row)
        requester.execute("select recovery.open_reveal(%s)", row)
        found = requester.execute("select token, plain_value from recovery.read_reveal(%s)", row).fetchall()
    assert found == [(new, story["old"].event["ip"])]


def test_the_old_keys_are_gone_from_the_table_and_from_the_files(masked: Masked) -> None:
    # keys of this database alone: its template has the first ones
    masked.recovery("rotate")
    keys = masked.rows("select domain, inner_block, outer_block from masking.keys where domain != 'erased_user'")
    assert len(keys) >= 3
    # control: they are in the files
    assert all(masked.files_with(bytes(inner)) for _, inner, _ in keys)

    masked.recovery("rotate")

    for _, inner, outer in keys:
        assert masked.files_with(bytes(inner)) == set()
        assert masked.files_with(bytes(outer)) == set()
    assert masked.rows("select domain, version from masking.keys where version != 3") == [("erased_user", 1)]
    assert masked.rows("select from recovery.rotated_tokens") == []
    assert masked.rows("select from recovery.next_keys") == []


def test_the_old_tokens_are_gone_from_the_files(masked: Masked) -> None:
    masked.recovery("rotate")
    old = masked.value("select masked_device_id from marts.user_logins where user_id = 'u-old'")
    assert masked.files_with(old)

    masked.recovery("rotate")

    # what ANALYZE noted of user_logins is replaced, and its old bytes are used again: docs/privacy-officer.md
    assert masked.files_with(old) <= masked.statistics_files()


def test_tombstones_outlive_a_rotation(masked: Masked, story: dict[str, Message]) -> None:
    masked.recovery("erase", stdin="u-erased\n")
    masked.recovery("rotate")
    masked.land([story["erased"]])
    masked.mask()
    assert masked.value("select count(*) from marts.user_logins where user_id = 'u-erased'") == 0
    assert masked.value("select count(*) from staging.raw_logins where body like '%\"u-erased\"%'") == 0


def test_logins_whose_value_has_expired_keep_their_token_and_become_unlinkable(masked: Masked, story: dict[str, Message]) -> None:
    expire_now(masked)
    kept, moved = masked.tokens(story["old"]), masked.tokens(story["old shared"])

    said = masked.recovery("rotate")

    assert "\n2 logins keep a token whose value has expired" in said
    assert masked.tokens(story["old"]) == kept
    # a value that another, retained message still has moves along with it: it is one person to analysts, before and after
    assert masked.tokens(story["old shared"]) == masked.tokens(story["new shared"]) != moved
    again = login("u-old", story["old"].event["ip"], story["old"].event["device_id"])
    masked.land([again])
    masked.mask()
    assert masked.tokens(again)[0] != kept[0]


def test_messages_that_dbt_takes_in_the_middle_are_changed_too(masked: Masked) -> None:
    with masked.connect("privacy_officer") as officer:
        officer.execute("select recovery.begin_rotation()")
        officer.execute("select recovery.map_tokens(100)")
        new = login("u-middle", "2001:db8:ffff::d", "canary-device-middle")
        masked.land([new])
        masked.mask()
        # until the swap, what arrives is masked as all the rest is
        assert masked.tokens(new)[0].startswith("v1:")
        officer.execute("select recovery.swap_tokens()")
    assert masked.rows("select distinct left(masked_ip, 3), left(masked_device_id, 3) from marts.user_logins") == [("v2:", "v2:")]


def test_the_swap_waits_for_a_dbt_model_that_is_masking_with_the_old_keys(masked: Masked) -> None:
    with masked.connect("transformer", autocommit=False) as dbt, masked.connect("privacy_officer") as officer:
        officer.execute("set lock_timeout = '200ms'")
        officer.execute("select recovery.begin_rotation()")
        dbt.execute("select staging.open_window('user_logins')")
        with pytest.raises(errors.LockNotAvailable):
            officer.execute("select recovery.swap_tokens()")
        dbt.rollback()
        # control: with dbt's transaction over, it does not wait
        officer.execute("select recovery.swap_tokens()")


def test_analysts_never_see_two_versions_and_no_query_of_theirs_fails(masked: Masked) -> None:
    rotated = threading.Event()
    seen: Counter[str] = Counter()
    failures: list[psycopg.Error] = []

    def look() -> None:
        with masked.connect("analyst") as analyst:
            analyst.execute("set statement_timeout = '30s'")
            try:
                while not rotated.is_set():
                    seen[str(analyst.execute(PICTURE.encode()).fetchone())] += 1
            except psycopg.Error as error:
                failures.append(error)

    analysts = [threading.Thread(target=look) for _ in range(3)]
    for analyst in analysts:
        analyst.start()
    for _ in range(3):
        masked.recovery("rotate")
    rotated.set()
    for analyst in analysts:
        analyst.join()

    assert failures == []
    assert seen.total() > 10
    assert len(seen) == 1


def test_queries_that_always_overlap_do_not_keep_the_old_tokens_in_the_files(masked: Masked) -> None:
    scrubbed = threading.Event()

    def look() -> None:
        with masked.connect("analyst") as analyst:
            while not scrubbed.is_set():
                analyst.execute("select count(*), pg_sleep(1) from analytics.user_logins")

    analysts = [threading.Thread(target=look) for _ in range(4)]
    for analyst in analysts:
        analyst.start()
    try:
        masked.recovery("rotate")
    finally:
        scrubbed.set()
        for analyst in analysts:
            analyst.join()
    assert masked.rows("select from recovery.scrubs") == []


def test_control_a_change_that_is_not_one_transaction_is_seen(masked: Masked) -> None:
    picture = masked.rows(PICTURE, "analyst")
    with masked.connect() as admin:
        admin.execute("update marts.user_logins set masked_ip = 'v2' || substr(masked_ip, 3) where message_id < '8'")
    assert masked.rows(PICTURE, "analyst") != picture


def test_a_login_that_is_not_masked_as_its_message_says_stops_the_rotation_and_nothing_changes(
    masked: Masked, story: dict[str, Message]
) -> None:
    with masked.connect("transformer") as dbt:
        dbt.execute("update marts.user_logins set masked_ip = %s where message_id = %s", (f"v1:{'0' * 32}", story["old"].message_id))
    before, keys = masked.rows(TOKENS), masked.rows("select * from masking.keys")
    with masked.connect("privacy_officer") as officer:
        officer.execute("select recovery.begin_rotation()")
        with pytest.raises(errors.DataException, match="1 logins carry a token that is not made of their message"):
            officer.execute("select recovery.swap_tokens()")
    assert masked.rows(TOKENS) == before
    assert masked.rows("select * from masking.keys") == keys


def test_a_trigger_that_holds_logins_back_stops_the_rotation_and_nothing_changes(masked: Masked) -> None:
    with masked.connect("transformer") as dbt:
        dbt.execute("create function marts.hold_back() returns trigger language plpgsql as 'begin return null; end'")
        dbt.execute(
            "create trigger hold_back before update on marts.user_logins for each row when (old.user_id = 'u-old') "
            "execute function marts.hold_back()"
        )
    before, keys = masked.rows(TOKENS), masked.rows("select * from masking.keys")
    logins = len(before)
    with masked.connect("privacy_officer") as officer:
        officer.execute("select recovery.begin_rotation()")
        with pytest.raises(errors.DataException, match=f"{logins - 1} of {logins} logins were changed"):
            officer.execute("select recovery.swap_tokens()")
    assert masked.rows(TOKENS) == before
    assert masked.rows("select * from masking.keys") == keys


def begin(masked: Masked, batch_messages: int) -> list[int]:
    """Pair all tokens in batches; returns how many messages each batch had."""

    def pair(officer: psycopg.Connection[Any]) -> int:
        row = officer.execute("select recovery.map_tokens(%s)", (batch_messages,)).fetchone()
        assert row is not None
        mapped: int = row[0]
        return mapped

    with masked.connect("privacy_officer") as officer:
        officer.execute("select recovery.begin_rotation()")
        return list(iter(lambda: pair(officer), 0))


def test_a_rotation_that_a_restore_brought_back_pairs_all_from_the_beginning(masked: Masked) -> None:
    begin(masked, 100_000)
    with masked.connect() as admin:
        # another server's transaction ids, which this one has not come to, and pairs that the backup caught halfway
        admin.execute("update recovery.rotation set mapped_before = '4611686018427387904'")
        admin.execute("delete from recovery.rotated_tokens where old_token < 'v1:8'")
    said = masked.recovery("rotate")
    assert said.startswith("rotation goes on\n")
    assert masked.rows("select distinct left(masked_ip, 3), left(masked_device_id, 3) from marts.user_logins") == [("v2:", "v2:")]


def test_batches_are_bounded_and_take_every_message_once(masked: Masked) -> None:
    for _ in range(3):
        masked.land([login("u-batch", "2001:db8:ffff::e", f"device-{number}") for number in range(50)])
    masked.mask()
    landed = masked.value("select count(*) from staging.raw_logins")
    batches = begin(masked, 60)
    assert sum(batches) == landed
    # the template's messages landed in one transaction, which is never parted
    assert sorted(batches)[:-1] == [50, 50, 50]


def test_one_value_with_two_new_tokens_is_refused(masked: Masked) -> None:
    begin(masked, 100_000)
    with masked.connect() as admin:
        admin.execute("update recovery.rotation set mapped_before = '0'")
        admin.execute(
            "update recovery.rotated_tokens set new_token = 'v2:other' "
            "where old_token = (select min(old_token) from recovery.rotated_tokens)"
        )
    with masked.connect("privacy_officer") as officer, pytest.raises(errors.UniqueViolation):
        officer.execute("select recovery.map_tokens(100000)")


def test_two_values_with_one_new_token_are_refused(masked: Masked) -> None:
    begin(masked, 100_000)
    with masked.connect() as admin, pytest.raises(errors.UniqueViolation):
        admin.execute("update recovery.rotated_tokens set new_token = (select max(new_token) from recovery.rotated_tokens)")


def test_a_rotation_before_anything_was_masked_changes_the_keys_alone(unmasked: Masked) -> None:
    assert "0 logins changed" in unmasked.recovery("rotate")
    assert {version for (version,) in unmasked.rows("select version from masking.keys where domain != 'erased_user'")} == {2}
