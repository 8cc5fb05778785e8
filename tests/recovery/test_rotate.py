"""Rotating the keys: every token changes one to one, at one moment, and the old keys are gone."""

import json
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest
from psycopg import errors

from recovery import session
from tests.recovery.conftest import Masked, Message, begin_judging, login, wait_until
from tests.support import run

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
    assert f"{len(before)} logins changed" in said
    assert "\n0 logins keep" in said


def test_the_new_tokens_are_those_that_dbt_gives_from_then_on(masked: Masked, story: dict[str, Message]) -> None:
    masked.recovery("rotate")
    again = login("u-again", story["new shared"].event["ip"], "canary-device-shared")
    masked.land([again])
    masked.mask()
    assert masked.tokens(again) == masked.tokens(story["new shared"]) == masked.tokens(story["old shared"])


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


def test_a_rotation_waits_for_whoever_reads_what_is_masked_and_writes_nothing_until_then(
    masked: Masked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open transaction that has read the view, such as dbt's, holds the keys: many attempts leave no heap of dead rows."""
    monkeypatch.setattr(session, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(session, "PATIENCE_SECONDS", 3.0)
    size = "select sum(pg_total_relation_size(relid)) from pg_partition_tree('marts.user_logins')"
    before, size_before, keys_before = masked.rows(TOKENS), masked.value(size), masked.value("select pg_relation_size('masking.keys')")
    with masked.connect("transformer", autocommit=False) as dbt, masked.connect("privacy_officer") as officer:
        assert dbt.execute("select masked_ip from staging.logins limit 1").fetchall()
        officer.execute("set lock_timeout = '50ms'")
        with pytest.raises(session.RecoveryError, match="another transaction holds what this act needs, such as a dbt run; run it again"):
            session.call(officer, "select * from recovery.rotate()")
        assert masked.rows(TOKENS) == before
        assert masked.value(size) == size_before
        assert masked.value("select pg_relation_size('masking.keys')") == keys_before
        dbt.rollback()
        # control: with that transaction over, it does not wait
        assert session.call(officer, "select * from recovery.rotate()")


def test_a_rotation_waits_for_a_dbt_model_that_is_masking_with_the_old_keys(masked: Masked) -> None:
    with masked.connect("transformer", autocommit=False) as dbt, masked.connect("privacy_officer") as officer:
        officer.execute("set lock_timeout = '200ms'")
        begin_judging(dbt)
        with pytest.raises(errors.LockNotAvailable):
            officer.execute("select recovery.rotate()")
        dbt.rollback()
        # control: with dbt's transaction over, it does not wait
        officer.execute("select recovery.rotate()")


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
    with masked.connect() as admin:
        admin.execute("update marts.user_logins set masked_ip = %s where message_id = %s", (f"v1:{'0' * 32}", story["old"].message_id))
    before, keys = masked.rows(TOKENS), masked.rows("select * from masking.keys")
    done = run(["python", "-m", "recovery", "rotate"], masked.environment)
    assert done.returncode == os.EX_SOFTWARE
    assert "\n1 tokens are not made of their message; a rule in database/6_fields.sql changed after they were made" in done.stderr
    assert masked.rows(TOKENS) == before
    assert masked.rows("select * from masking.keys") == keys


def test_two_rotations_at_once_both_end_well_one_after_the_other(masked: Masked) -> None:
    with ThreadPoolExecutor() as officers:
        said = list(officers.map(lambda _: masked.recovery("rotate"), range(2)))
    assert all("logins changed" in one for one in said)
    assert masked.rows("select distinct left(masked_ip, 3), left(masked_device_id, 3) from marts.user_logins") == [("v3:", "v3:")]
    assert len(masked.rows("select from recovery.audit where act = 'rotated'")) == 2


@pytest.mark.parametrize("rotations", [1, 2])
def test_a_domain_that_is_declared_around_a_rotation_has_its_key_and_is_masked(masked: Masked, rotations: int) -> None:
    """Before one rotation, and between two. The logins of before have no token of it, and gain none."""
    if rotations == 2:
        masked.recovery("rotate")
    with masked.connect() as admin:
        admin.execute(
            "set role pipeline_owner; insert into masking.fields (column_name, field, max_length, is_required, domain, canonical_form) "
            "values ('masked_email', 'email', 256, false, 'email', 'as_sent'); select masking.apply_fields()"
        )
    masked.recovery("rotate")
    assert masked.value("select array_agg(distinct version) from masking.keys where domain in ('ip', 'network')") == [rotations + 1]
    assert masked.value("select version from masking.keys where domain = 'email'") == 2
    assert masked.value("select count(masked_email) from marts.user_logins") == 0
    new = login("u-new", "192.0.2.9", "canary-device-email")
    masked.land([replace(new, body=json.dumps(new.event | {"email": "person@example.com"}))])
    tokens = masked.rows("select left(masked_ip, 3), left(masked_email, 3) from staging.unjudged_logins")
    assert tokens == [(f"v{rotations + 1}:", "v2:")]


def test_a_migration_that_declares_a_domain_and_a_rotation_take_turns(masked: Masked) -> None:
    """The key that is committed while the rotation waits for it rotates with the others."""
    with masked.connect(autocommit=False) as admin, ThreadPoolExecutor() as officers:
        admin.execute("set local role pipeline_owner; select masking.create_key('email')")
        rotation = officers.submit(masked.recovery, "rotate")
        wait_until(masked, "select from pg_locks where not granted")
        admin.commit()
        assert "logins changed" in rotation.result()
    assert masked.value("select version from masking.keys where domain = 'email'") == 2


def test_a_rotation_before_anything_was_masked_changes_the_keys_alone(unmasked: Masked) -> None:
    assert "0 logins changed" in unmasked.recovery("rotate")
    assert {version for (version,) in unmasked.rows("select version from masking.keys where domain != 'erased_user'")} == {2}
