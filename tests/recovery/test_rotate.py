"""Rotating the keys: every token changes one to one, at one moment, and the old keys are gone."""

import json
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from recovery import session
from tests.recovery.conftest import Masked, Message, login, message

TOKENS = "select message_id, masked_ip, masked_device_id, masked_network from marts.user_logins order by 1"
# nobody is two people: one version at a time, and as many logins, addresses, devices and shared ones as before
PICTURE = """
    select
        count(*), count(distinct masked_ip), count(distinct masked_device_id),
        count(distinct split_part(masked_ip, ':', 1)), count(distinct split_part(masked_device_id, ':', 1)),
        (select array_agg((logins, distinct_users)::text order by logins, distinct_users) from analytics.shared_ips),
        (select array_agg((logins, distinct_users)::text order by logins, distinct_users) from analytics.shared_devices)
    from analytics.user_logins
"""


def test_tokens_of_all_but_expired_values_change_one_to_one_for_everybody(masked: Masked, story: dict[str, Message]) -> None:
    old, new = story["old"], story["new shared"]
    masked.recovery("erase", stdin="u-erased\n")
    masked.recovery("expire")
    before, expired, shared = masked.rows(TOKENS), masked.tokens(old), masked.tokens(new)

    said = masked.recovery("rotate")

    assert said.startswith(f"{len(before)} logins changed, ")
    assert "\n1 logins keep a token whose value has expired" in said
    pairs = {pair for was, now in zip(before, masked.rows(TOKENS), strict=True) for pair in zip(was, now, strict=True) if pair[0]}
    kept = {was for was, now in pairs if was == now}
    assert kept == {*expired, *(row[0] for row in before)}
    changed = {pair for pair in pairs if pair[0] not in kept}
    assert len(changed) == len({was for was, _ in changed}) == len({now for _, now in changed}) > 300
    assert all(was.startswith("v1:") and now.startswith("v2:") and was[3:] != now[3:] for was, now in changed)
    # an expired value that another, retained message still has moves along with it: it is one person to analysts, before and after
    rotated = masked.tokens(new)
    assert masked.tokens(story["old shared"]) == rotated != shared
    # a value can be revealed by its new token and no longer by the old
    assert masked.reveal(shared[0], rotated[0]) == {(rotated[0], new.event["ip"])}
    # dbt gives the new tokens from then on, knows who was erased, and links nobody to an expired token
    again = [login(f"{one.event['user_id']}-2", one.event["ip"], one.event["device_id"]) for one in (new, old)]
    masked.land([*again, story["erased"]])
    masked.mask()
    assert masked.tokens(again[0]) == rotated
    assert not {*masked.tokens(again[1])} & {*expired}
    assert masked.present("marts.user_logins", [story["erased"]]) == masked.present("staging.raw_logins", [story["erased"]]) == set()


def test_the_old_keys_and_tokens_are_gone_from_the_files(masked: Masked) -> None:
    # keys and tokens of this database alone: its template has the first ones
    masked.recovery("rotate")
    keys = masked.rows("select inner_block, outer_block from masking.keys where domain != 'erased_user'")
    token = masked.value("select masked_device_id from marts.user_logins where user_id = 'u-old'")
    assert len(keys) >= 3
    # control: they are in the files
    assert all(masked.files_with(secret) for secret in (token, *(inner for inner, _ in keys)))

    masked.recovery("rotate")

    # what ANALYZE noted of user_logins is replaced, and its old bytes are used again later: docs/privacy-officer.md
    masked.execute("vacuum full pg_statistic")
    assert not any(masked.files_with(secret) for secret in (token, *(block for key in keys for block in key)))
    assert masked.rows("select domain, version from masking.keys where version != 3") == [("erased_user", 1)]


def test_a_rotation_waits_for_whoever_reads_the_views_and_writes_nothing(masked: Masked, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open transaction that has read the view, such as dbt's, holds the keys: many attempts leave no heap of dead rows."""
    monkeypatch.setattr(session, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(session, "PATIENCE_SECONDS", 3.0)
    sizes = "select sum(pg_total_relation_size(relid)), pg_relation_size('masking.keys') from pg_partition_tree('marts.user_logins')"
    before, sizes_before = masked.rows(TOKENS), masked.rows(sizes)
    with masked.connect("transformer", autocommit=False) as dbt, masked.connect("privacy_officer") as officer:
        assert dbt.execute("select masked_ip from staging.logins limit 1").fetchall()
        officer.execute("set lock_timeout = '50ms'")
        with pytest.raises(session.RecoveryError, match="another transaction holds what this act needs, such as a dbt run; run it again"):
            session.call(officer, "select * from recovery.rotate()")
        assert (masked.rows(TOKENS), masked.rows(sizes)) == (before, sizes_before)
        dbt.rollback()
        # control: with that transaction over, it does not wait
        assert session.call(officer, "select * from recovery.rotate()")


def test_two_rotations_at_once_take_turns_and_analysts_never_see_two_versions_nor_keep_old_bytes(masked: Masked) -> None:
    rotated = threading.Event()

    def look(query: str) -> Counter[str]:
        seen: Counter[str] = Counter()
        with masked.connect("analyst") as analyst:
            analyst.execute("set statement_timeout = '30s'")
            while not rotated.is_set():
                seen[str(analyst.execute(query.encode()).fetchone())] += 1
        return seen

    with ThreadPoolExecutor(8) as people:
        looking = [people.submit(look, PICTURE) for _ in range(3)]
        # queries that always overlap: there is no moment at which nobody may look back
        overlapping = [people.submit(look, "select count(*), pg_sleep(0.3) from analytics.user_logins") for _ in range(3)]
        try:
            assert all("logins changed" in said for said in people.map(masked.recovery, ["rotate", "rotate"]))
        finally:
            rotated.set()
        seen = sum((one.result() for one in looking), Counter())
        assert sum((one.result() for one in overlapping), Counter())

    assert masked.rows("select from recovery.scrubs") == []
    assert masked.rows("select distinct left(masked_ip, 3), left(masked_device_id, 3) from marts.user_logins") == [("v3:", "v3:")]
    assert seen.total() > 10
    assert len(seen) == 1
    # control: a change that is not one transaction is seen
    masked.execute("update marts.user_logins set masked_ip = 'v2' || substr(masked_ip, 3) where message_id < '8'")
    assert str(masked.rows(PICTURE, "analyst")[0]) not in seen


def test_a_login_that_is_not_masked_as_its_message_says_stops_the_rotation(masked: Masked, story: dict[str, Message]) -> None:
    masked.execute(f"update marts.user_logins set masked_ip = 'v1:{'0' * 32}' where message_id = '{story['old'].message_id}'")
    before, keys = masked.rows(TOKENS), masked.rows("select * from masking.keys")
    done = masked.run("rotate")
    assert done.returncode == os.EX_SOFTWARE
    assert "\n1 tokens are not made of their message; a rule in database/6_fields.sql changed after they were made" in done.stderr
    assert (masked.rows(TOKENS), masked.rows("select * from masking.keys")) == (before, keys)


def test_a_domain_that_is_declared_while_a_rotation_waits_has_its_key_and_is_masked(unmasked: Masked) -> None:
    """The key that is committed meanwhile rotates with the others, for the second time; nothing was masked yet."""
    assert "0 logins changed" in unmasked.recovery("rotate")
    with unmasked.connect(autocommit=False) as admin, ThreadPoolExecutor() as officers:
        admin.execute(
            "set local role pipeline_owner; "
            "insert into masking.fields (column_name, path, max_length, is_required, domain, canonical_form) "
            "values ('masked_email', 'email', 256, false, 'email', 'as_sent'); select masking.apply_fields()"
        )
        rotation = officers.submit(unmasked.recovery, "rotate")
        unmasked.wait_until("select from pg_locks where not granted")
        admin.commit()
        assert "0 logins changed" in rotation.result()
    assert unmasked.rows("select domain, version from masking.keys where domain in ('ip', 'email') order by 1") == [("email", 2), ("ip", 3)]
    new = login("u-new").event | {"email": "person@example.com"}
    unmasked.land([message(json.dumps(new))])
    assert unmasked.rows("select left(masked_ip, 3), left(masked_email, 3) from staging.unjudged_logins") == [("v3:", "v2:")]
