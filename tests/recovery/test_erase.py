"""Erasing a person: all of theirs goes, stays away, and nobody else's."""

import json

import pytest
from psycopg import errors

from tests.recovery.conftest import Masked, Message, login

HIS = (
    "erased", "erased, long ago", "erased, rejected", "erased, cut off", "erased, in an array", "erased, in bytes", "erased, in a sentence"
)  # fmt: skip
OTHERS = ("neighbour", "neighbour, cut off", "neighbour, in a sentence")


def erase(masked: Masked, user_id: str = "u-erased") -> str:
    return masked.recovery("erase", stdin=f"{user_id}\n")


def present(masked: Masked, relation: str, messages: list[Message]) -> set[str]:
    """Which of *messages*' ids are in *relation*."""
    with masked.connect() as admin:
        rows = admin.execute(
            f"select message_id from {relation} where message_id = any (%s)".encode(),
            ([one.message_id for one in messages],),
        ).fetchall()
    return {message_id for (message_id,) in rows}


def test_every_message_of_the_person_goes_and_no_one_elses(masked: Masked, story: dict[str, Message]) -> None:
    before = {relation: masked.value(f"select count(*) from {relation}") for relation in ("staging.raw_logins", "marts.user_logins")}
    his, others = [story[name] for name in HIS], [story[name] for name in OTHERS]
    assert len(present(masked, "staging.raw_logins", his)) == len(HIS)

    assert erase(masked) == "erased: 7 raw messages, 2 logins, 5 rejections\n"

    for relation in ("staging.raw_logins", "marts.user_logins", "marts.rejected_logins"):
        assert present(masked, relation, his) == set()
    assert len(present(masked, "staging.raw_logins", others)) == len(OTHERS)
    assert masked.value("select count(*) from staging.raw_logins") == before["staging.raw_logins"] - 7
    assert masked.value("select count(*) from marts.user_logins") == before["marts.user_logins"] - 2


def test_a_value_shared_with_another_person_stays_recoverable_for_them(masked: Masked, story: dict[str, Message]) -> None:
    shared_token = masked.tokens(story["neighbour"])[0]
    assert masked.tokens(story["erased"])[0] == shared_token

    erase(masked)

    with masked.connect("pii_requester") as requester, masked.connect("pii_approver") as approver:
        row = requester.execute("select recovery.request_reveal(%s, 'fraud', 'case 1')", ([shared_token],)).fetchone()
        approver.execute("select recovery.approve_reveal(%s)", row)
        requester.execute("select recovery.open_reveal(%s)", row)
        assert requester.execute("select plain_value, messages from recovery.read_reveal(%s)", row).fetchall() == [("2001:db8:ffff::3", 1)]


def test_the_same_message_again_and_new_ones_of_the_person_stay_away_and_the_books_balance(
    masked: Masked, story: dict[str, Message]
) -> None:
    erase(masked)
    new = login("u-erased", "2001:db8:ffff::5", "canary-device-new")
    bystander = login("u-bystander", "2001:db8:ffff::6", "canary-device-bystander")
    again = [story[name] for name in HIS]
    masked.land([*again, new, bystander])
    # control: they did land
    assert len(present(masked, "staging.raw_logins", [*again, new])) == len(HIS) + 1

    masked.mask()

    for relation in ("staging.raw_logins", "marts.user_logins", "marts.rejected_logins"):
        assert present(masked, relation, [*again, new]) == set()
    assert len(present(masked, "marts.user_logins", [bystander])) == 1
    landed, masked_logins, rejected = masked.rows(
        "select (select count(*) from staging.raw_logins), (select count(*) from marts.user_logins),"
        " (select count(*) from marts.rejected_logins)"
    )[0]
    assert landed == masked_logins + rejected
    masked.dbt("test", "--select", "assert_every_message_is_masked_or_rejected", "assert_no_erased_message_is_back")


def test_control_without_the_tombstones_the_person_comes_back(masked: Masked, story: dict[str, Message]) -> None:
    erase(masked)
    with masked.connect() as admin:
        admin.execute("delete from recovery.tombstones")
    masked.land([story["erased"]])

    masked.mask()

    assert len(present(masked, "marts.user_logins", [story["erased"]])) == 1


def test_the_record_holds_counts_and_nothing_of_the_person(masked: Masked) -> None:
    erase(masked)
    assert masked.rows("select act, actor, details from recovery.audit") == [
        ("erased", "privacy_officer", {"raw_messages": 7, "logins": 2, "rejections": 5})
    ]
    assert "u-erased" not in json.dumps(masked.rows("select user_token from recovery.tombstones"))


def test_erasing_twice_is_harmless(masked: Masked) -> None:
    erase(masked)
    assert erase(masked) == "erased: 0 raw messages, 0 logins, 0 rejections\n"
    assert masked.value("select count(*) from recovery.tombstones") == 1


def test_a_blank_user_id_erases_nothing(masked: Masked) -> None:
    with masked.connect("privacy_officer") as officer, pytest.raises(errors.InvalidParameterValue):
        officer.execute("select recovery.erase('  ')")
    assert masked.recovery("erase", stdin="\n\n") == ""


def test_erasing_waits_for_a_dbt_model_that_has_read_the_person_already(masked: Masked) -> None:
    with masked.connect("transformer", autocommit=False) as dbt, masked.connect("privacy_officer") as officer:
        dbt.execute("select staging.open_window('user_logins')")
        officer.execute("set lock_timeout = '200ms'")
        with pytest.raises(errors.LockNotAvailable):
            officer.execute("select recovery.erase('u-erased')")
        dbt.rollback()
        # control: with dbt's transaction over, it does not wait
        officer.execute("select recovery.erase('u-erased')")


def test_the_deleted_bytes_are_gone_from_the_files(masked: Masked) -> None:
    masked.land([login("u-bytes", "2001:db8:ffff::b", "canary-device-bytes", days_ago=1)])
    masked.mask()
    with masked.connect() as admin:
        admin.execute("vacuum analyze")
    # control: they were there
    assert masked.files_with("canary-device-bytes")

    erase(masked, "u-bytes")

    assert masked.files_with("canary-device-bytes") == set()
    # what ANALYZE noted of user_logins is replaced, and its old bytes are used again: docs/privacy-officer.md
    assert masked.files_with("u-bytes") <= masked.statistics_files()
    assert masked.rows("select relation from recovery.scrubs") == []


def test_bytes_that_an_open_transaction_may_still_read_are_scrubbed_when_it_ends(masked: Masked) -> None:
    with masked.connect("transformer", autocommit=False) as reader, masked.connect("privacy_officer") as officer:
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select")
        officer.execute("select recovery.erase('u-old')")
        relation = officer.execute("select relation::oid from recovery.scrubs order by relation limit 1").fetchone()
        assert officer.execute("select recovery.scrub(%s::oid)", relation).fetchone() == (False,)
        reader.rollback()
        assert officer.execute("select recovery.scrub(%s::oid)", relation).fetchone() == (True,)
