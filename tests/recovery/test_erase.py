"""Erasing a person: all of theirs goes, stays away, and nobody else's."""

import itertools
import json
import os
import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from psycopg import errors

from tests.recovery.conftest import Masked, Message, begin_judging, login, message, wait_until
from tests.support import run

if TYPE_CHECKING:
    import subprocess

HIS = (
    "erased", "erased, long ago", "erased, rejected", "erased, cut off", "erased, in an array", "erased, in bytes", "erased, in a sentence"
)  # fmt: skip
OTHERS = ("neighbour", "neighbour, cut off", "neighbour, in a sentence")


def erase(masked: Masked, user_id: str = "u-erased") -> str:
    return masked.recovery("erase", stdin=f"{user_id}\n")


def run_erase(masked: Masked, user_ids: bytes) -> "subprocess.CompletedProcess[str]":
    """Run the command on a list of bytes, to whatever end."""
    return run(["python", "-m", "recovery", "erase"], masked.environment, stdin=user_ids)


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


def test_control_without_what_erasure_remembers_the_person_comes_back(masked: Masked, story: dict[str, Message]) -> None:
    erase(masked)
    with masked.connect() as admin:
        admin.execute("delete from recovery.tombstones; delete from recovery.erased_messages")
    masked.land([story["erased"]])

    masked.mask()

    assert len(present(masked, "marts.user_logins", [story["erased"]])) == 1


@pytest.mark.parametrize("forgotten", ["tombstones", "erased_messages"])
def test_an_erased_message_stays_away_though_half_of_what_is_remembered_is_deleted_by_hand(
    masked: Masked, story: dict[str, Message], forgotten: str
) -> None:
    """The control above shows that either is enough, and neither is not."""
    erase(masked)
    with masked.connect() as admin:
        admin.execute(f"delete from recovery.{forgotten}".encode())
    masked.land([story["erased"]])
    masked.mask()
    for relation in ("staging.raw_logins", "marts.user_logins", "staging.unjudged"):
        assert present(masked, relation, [story["erased"]]) == set()


# Every shape of message in which dbt reads a user_id.
SHAPES = ('"u-erased"', '" u-erased "', '"\\u0075-erased\\u00a0"', '"u-erased\\u200b"', '"u-erased", "ip": 7, "user_id": "\\tu-erased"')


@pytest.mark.parametrize("user_id", SHAPES)
def test_an_erased_persons_next_login_is_never_visible_though_it_lands_while_dbt_runs(masked: Masked, user_id: str) -> None:
    erase(masked)
    early, late = (
        replace(one, body=one.body.replace('"u-erased"', user_id))
        for one in (login("u-erased", "192.0.2.5", f"canary-device-{number}") for number in range(2))
    )
    masked.land([early])
    with masked.connect("transformer", autocommit=False) as dbt:
        begin_judging(dbt)
        masked.land([late])
        # control: it did land, and a snapshot of now would see it
        assert present(masked, "staging.unjudged_logins", [late]) == {late.message_id}
        assert dbt.execute("select message_id from staging.unjudged_logins").fetchall() == []
        dbt.commit()
    masked.mask()
    for relation in ("staging.raw_logins", "marts.user_logins", "marts.rejected_logins"):
        assert present(masked, relation, [early, late]) == set()


def test_the_work_list_is_prepared_in_a_repeatable_read_transaction_alone(masked_for_module: Masked) -> None:
    """In read committed, a message that lands after the look would be masked without having been looked at."""
    with masked_for_module.connect("transformer") as dbt, pytest.raises(errors.ActiveSqlTransaction, match="repeatable read"):
        dbt.execute("select staging.begin_judging()")


def test_the_record_holds_counts_and_nothing_of_the_person(masked: Masked) -> None:
    erase(masked)
    assert masked.rows("select act, actor, details from recovery.audit") == [
        ("erased", "privacy_officer", {"persons": 1, "raw_messages": 7, "logins": 2, "rejections": 5})
    ]
    assert "u-erased" not in json.dumps(masked.rows("select user_token from recovery.tombstones"))


SPACES = ("  u-spaced", "u-spaced\t", "\u00a0u-spaced\u3000", "\ufeffu-spaced\u200b")


# a space of another kind is a part of the id
@pytest.mark.parametrize(("sent", "given"), [*itertools.product(SPACES, ("as sent", "without")), ("\u2003u-spaced", "as sent")], ids=ascii)
def test_an_id_with_spaces_around_it_is_erased_as_it_was_sent_and_without_them(masked: Masked, sent: str, given: str) -> None:
    spaced = login(sent, "192.0.2.6", "canary-device-spaced")
    masked.land([spaced])
    masked.mask()
    assert present(masked, "marts.user_logins", [spaced])
    user_id = sent if given == "as sent" else sent.strip("\t \u00a0\u3000\ufeff\u200b")
    assert erase(masked, user_id) == "erased: 1 raw messages, 1 logins, 0 rejections\n"
    assert present(masked, "marts.user_logins", [spaced]) == present(masked, "staging.raw_logins", [spaced]) == set()


def test_many_persons_are_erased_in_one_call_and_each_has_their_own_counts(masked: Masked) -> None:
    """Persons who are in one message together, one who is given twice, and one of whom nothing is left but logins."""
    masked.land(
        [
            *(login(f"u-{number}", "192.0.2.7", "d") for number in range(300) for _ in range(number % 3)),
            message("u-1 and u-2 in one sentence"),
        ]
    )
    old = login("u-299", "192.0.2.7", "d", days_ago=50)
    masked.land([old])
    masked.mask()
    with masked.connect() as admin:
        admin.execute(f"drop table {old.partition}".encode())
    persons = [f"u-{number}" for number in range(300)]

    with masked.connect("privacy_officer") as officer:
        erased = officer.execute("select * from recovery.erase(%s)", ([*persons, "u-1", "u-none"],)).fetchall()

    expected = [(number + 1, number % 3, number % 3, 0) for number in range(300)]
    expected[1] = (2, 2, 1, 1)
    expected[2] = (3, 3, 2, 1)
    expected[299] = (300, 2, 3, 0)
    assert erased == [*expected, (301, 2, 1, 1), (302, 0, 0, 0)]
    assert masked.value("select count(*) from marts.user_logins where user_id ~ '^u-[0-9]+$'") == 0
    assert masked.value("select count(*) from recovery.tombstones") == 301
    assert masked.value("select count(*) from recovery.audit") == 1


@pytest.mark.parametrize("parent", ["staging.raw_logins", "marts.user_logins", "marts.rejected_logins"])
def test_erase_refuses_where_a_partition_is_detached_and_names_it(masked: Masked, parent: str) -> None:
    partition = masked.value(f"select max(inhrelid::regclass::text) from pg_inherits where inhparent = '{parent}'::regclass")
    with masked.connect() as admin:
        admin.execute(f"alter table {parent} detach partition {partition}".encode())
        done = run_erase(masked, b"u-erased\n")
        assert (done.returncode, done.stdout) == (os.EX_SOFTWARE, "")
        name = partition.partition(".")[2]
        assert done.stderr.startswith(f"{name} is detached, and this act must see all rows; attach it or drop it, then try again")
        assert done.stderr.count("\n") == 1
        assert masked.rows("select from recovery.tombstones") == []
        # control: without it
        admin.execute(f"drop table {partition}".encode())
    assert run_erase(masked, b"u-erased\n").returncode == 0


def test_a_number_as_user_id_is_erased_however_it_is_spelled(masked: Masked) -> None:
    body = login("u-other", "192.0.2.1", "000-00-0001").body
    masked.land(message(body.replace('"u-other"', spelled)) for spelled in ("1e2", "100", "100.5"))
    masked.dbt("run")
    assert run_erase(masked, b"100\n").stdout == "erased: 2 raw messages, 0 logins, 2 rejections\n"


def test_erasing_twice_is_harmless(masked: Masked) -> None:
    erase(masked)
    again = run_erase(masked, b"u-erased\n")
    assert again.stdout == "erased: 0 raw messages, 0 logins, 0 rejections\n"
    assert masked.value("select count(*) from recovery.tombstones") == 1


def test_a_list_from_another_system_is_read_as_it_is_meant(masked: Masked) -> None:
    done = run_erase(masked, b"\xef\xbb\xbf\r\nu-old\r\n \tu-erased \r\n\r\nu-old-shared")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "erased: 1 raw messages, 1 logins, 0 rejections",
        "erased: 7 raw messages, 2 logins, 5 rejections",
        "erased: 1 raw messages, 1 logins, 0 rejections",
    ]


@pytest.mark.parametrize("line", [b"u-\xff", b"u-\0", "u-old".encode("utf-16")], ids=["Latin-1", "NUL", "UTF-16"])
def test_a_list_that_is_no_text_erases_nobody(masked_for_module: Masked, line: bytes) -> None:
    done = run_erase(masked_for_module, b"u-old\n" + line + b"\n")
    assert (done.returncode, done.stdout) == (os.EX_DATAERR, "")
    assert re.fullmatch(r"line 2 (is not UTF-8|holds a NUL); save the list as UTF-8 text; nothing was erased\n", done.stderr)
    assert masked_for_module.rows("select from recovery.tombstones") == []


def test_an_id_that_matches_nothing_is_said_by_its_line_and_the_others_are_erased(masked: Masked) -> None:
    done = run_erase(masked, b"u-old\nU-ERASED\nu-erased\n")
    assert done.returncode == os.EX_DATAERR
    assert done.stderr == "line 2 matched nothing; compare the id with what the producer sends\n"
    assert done.stdout.splitlines()[2] == "erased: 7 raw messages, 2 logins, 5 rejections"
    assert masked.rows("select from recovery.scrubs") == []


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("act", ["recovery.erase('{u-old}')", "recovery.rotate()", "recovery.expire_next()"])
def test_an_act_under_a_snapshot_that_may_be_older_than_its_locks_is_refused(masked_for_module: Masked, act: str, level: str) -> None:
    with masked_for_module.connect("privacy_officer", autocommit=False) as officer:
        officer.execute(f"set transaction isolation level {level}".encode())
        with pytest.raises(errors.ActiveSqlTransaction, match=f"read committed transactions only; this one is {level}"):
            officer.execute(f"select {act}".encode())


def test_the_command_works_where_the_database_has_another_isolation_level(masked: Masked) -> None:
    with masked.connect() as admin:
        admin.execute(f"alter database {masked.database.name} set default_transaction_isolation = 'repeatable read'".encode())
    assert erase(masked) == "erased: 7 raw messages, 2 logins, 5 rejections\n"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"user_id": "u-1", "ip": "\0"}', True),
        (b"u-1", True),
        (b"\0u-1\0", True),
        (b'{"user_id": "u-12", "ip": "\0"}', False),
        (b'{"user_id": "zu-1", "ip": "\0"}', False),
        (b'{"user_id": "u-1_b", "ip": "\0"}', False),
        (b"\0u-12 u-1\0", True),
        # the id's digits, half a byte off
        (bytes.fromhex("0" + b"u-1".hex() + "0"), False),
    ],
)
def test_a_message_in_hex_is_the_persons_when_the_id_is_a_word_of_it(masked_for_module: Masked, body: bytes, named: bool) -> None:  # noqa: FBT001  # a parameter of a test
    with masked_for_module.connect() as admin:
        assert admin.execute("select recovery.mentions_user(%s, 'u-1')", ("\\x" + body.hex(),)).fetchone() == (named,)


@pytest.mark.parametrize("letter", ["u", "é", "😀", '"', "\\", "/", "\t", ".", "("], ids=ascii)
def test_a_message_in_an_envelope_is_the_persons_however_deep_its_escapes_are(masked_for_module: Masked, letter: str) -> None:
    """SNS (once, twice, around EventBridge), EventBridge, JSON in a string; with JSON's escapes and without."""
    with masked_for_module.connect() as admin:

        def named(body: str, user_id: str) -> bool:
            return admin.execute("select recovery.mentions_user(%s, %s)", (body, user_id)).fetchone() == (True,)

        for ascii_only in (True, False):
            body = json.dumps({"user_id": f"a{letter}b", "locale": "de_DE"}, ensure_ascii=ascii_only)
            event = json.dumps({"detail": json.loads(body)}, ensure_ascii=ascii_only)
            bodies = [event, json.dumps(body, ensure_ascii=ascii_only)]
            for each in (body, event):
                bodies.append(json.dumps({"Type": "Notification", "Message": each}, ensure_ascii=ascii_only))
                bodies.append(json.dumps({"Type": "Notification", "Message": bodies[-1]}, ensure_ascii=ascii_only))
            for enveloped in bodies:
                assert named(enveloped, f"a{letter}b"), enveloped
                # control: other persons
                assert not any(named(enveloped, other) for other in ("axb", "aèb", "a😁b", f"a{letter}bc"))
                if letter == "u":
                    assert not any(named(enveloped, part) for part in ("a", "b", f"a{letter}", f"{letter}b"))


@pytest.mark.parametrize("parent", ["marts.user_logins", "staging.raw_logins"])
def test_scrubbing_and_a_reader_who_goes_on_to_write_do_not_wait_for_each_other(masked: Masked, parent: str) -> None:
    relation = masked.value(f"select max(inhrelid::regclass::text) from pg_inherits where inhparent = '{parent}'::regclass")
    oid = masked.value(f"select '{relation}'::regclass::oid")
    with masked.connect() as admin, masked.connect("privacy_officer") as officer, masked.connect(autocommit=False) as writer:
        admin.execute("insert into recovery.scrubs (relation) values (%s::regclass)", (relation,))
        writer.execute(f"select count(*) from {relation}".encode())
        scrubbed: list[object] = []

        def scrub() -> None:
            scrubbed.append(officer.execute("select recovery.scrub(%s::oid)", (oid,)).fetchone())

        scrubbing = threading.Thread(target=scrub)
        scrubbing.start()
        wait_until(masked, "select from pg_locks where not granted and mode = 'AccessExclusiveLock'")
        # at once: what the reader waited for would be waiting for it
        writer.execute("set local lock_timeout = '50ms'")
        writer.execute(f"delete from {relation} where false".encode())
        writer.rollback()
        scrubbing.join()
    assert len(scrubbed) == 1


def test_a_blank_user_id_erases_nothing(masked: Masked) -> None:
    with masked.connect("privacy_officer") as officer, pytest.raises(errors.InvalidParameterValue):
        officer.execute("select recovery.erase(array['u-old', '  '])")
    assert masked.rows("select from recovery.tombstones") == []
    assert run_erase(masked, b"\n \n").stderr == "no user_id is given; write one a line to standard input\n"


def test_erasing_waits_for_a_dbt_model_that_has_read_the_person_already(masked: Masked) -> None:
    with masked.connect("transformer", autocommit=False) as dbt, masked.connect("privacy_officer") as officer:
        begin_judging(dbt)
        officer.execute("set lock_timeout = '200ms'")
        with pytest.raises(errors.LockNotAvailable):
            officer.execute("select recovery.erase('{u-erased}')")
        dbt.rollback()
        # control: with dbt's transaction over, it does not wait
        officer.execute("select recovery.erase('{u-erased}')")


def test_the_deleted_bytes_are_gone_from_the_files(masked: Masked) -> None:
    # often enough for ANALYZE to note it, were it let
    masked.land([login("u-bytes", "2001:db8:ffff::b", "canary-device-bytes", days_ago=1) for _ in range(20)])
    masked.mask()
    with masked.connect() as admin:
        admin.execute("vacuum analyze")
    # control: they were there
    assert masked.files_with("canary-device-bytes")

    erase(masked, "u-bytes")

    assert masked.files_with("canary-device-bytes") == set()
    assert masked.files_with("u-bytes") == set()
    assert masked.rows("select relation from recovery.scrubs") == []


def test_bytes_that_an_open_transaction_may_still_read_are_scrubbed_when_it_ends(masked: Masked) -> None:
    with masked.connect("transformer", autocommit=False) as reader, masked.connect("privacy_officer") as officer:
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select")
        officer.execute("select recovery.erase('{u-old}')")
        relation = officer.execute("select relation::oid from recovery.scrubs order by relation limit 1").fetchone()
        assert officer.execute("select recovery.scrub(%s::oid)", relation).fetchone() == (False,)
        reader.rollback()
        assert officer.execute("select recovery.scrub(%s::oid)", relation).fetchone() == (True,)


def test_scrubbing_writes_only_the_partitions_anew_that_rows_were_deleted_from(masked: Masked, story: dict[str, Message]) -> None:
    files = (
        "select inhrelid::regclass::text, pg_relation_filenode(inhrelid) from pg_inherits "
        "inner join pg_class on inhrelid = pg_class.oid where relkind = 'r'"
    )
    before = dict(masked.rows(files))
    assert len(before) > 12

    erase(masked, "u-old")

    after = dict(masked.rows(files))
    one = story["old"]
    assert {name for name in before if before[name] != after[name]} == {one.partition, f"marts.user_logins_{one.sent_at:%Y%m}"}
