"""Erasing a person: all of theirs goes, stays away, and nobody else's."""

import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import errors

from tests.recovery.conftest import Masked, Message, login, message

# whatever stands between the quotation marks of {"user_id": "…"} and is read as u-erased, by dbt too
SHAPES = ("u-erased", " u-erased ", "\\u0075-erased\\u00a0", "u-erased\\u200b", 'u-erased", "ip": 7, "user_id": "\\tu-erased')
SPACES = ("  {}", "{}\t", "\u00a0{}\u3000", "\ufeff{}\u200b")
TABLES = ("staging.raw_logins", "marts.user_logins", "marts.rejected_logins")
DETACHED = "{} is detached, and this act must see all rows; attach it or drop it, then try again; nothing was changed\n"
FILES = (
    "select inhrelid::regclass::text, pg_relation_filenode(inhrelid) from pg_inherits where inhparent = any "
    "('{staging.raw_logins,marts.user_logins,marts.rejected_logins}'::regclass[])"
)
# what dbt does before a model's statement, in its transaction: the macro begin_judging
BEGIN_JUDGING = (
    b"set transaction isolation level repeatable read; "
    b"lock table only marts.rejected_logins in share update exclusive mode; select staging.begin_judging()"
)


def erase(masked: Masked, user_id: str = "u-erased") -> str:
    return masked.recovery("erase", stdin=f"{user_id}\n")


def test_all_of_the_person_goes_and_nobody_elses_and_the_record_says_how_much(masked: Masked, story: dict[str, Message]) -> None:
    """Only the files that rows were deleted from are written anew."""
    his, others = ([one for name, one in story.items() if name.startswith(who)] for who in ("erased", "neighbour"))
    token = masked.tokens(story["neighbour"])[0]
    assert masked.tokens(story["erased"])[0] == token
    counts = f"select {', '.join(f'(select count(*)::integer from {table})' for table in TABLES)}"
    before, files_before = masked.rows(counts)[0], dict(masked.rows(FILES))
    assert len(masked.present("staging.raw_logins", his)) == len(his) == 7
    logins = masked.present("marts.user_logins", his)

    assert erase(masked) == "erased: 7 raw messages, 2 logins, 5 rejections\n"

    assert masked.rows(counts) == [(before[0] - 7, before[1] - 2, before[2] - 5)]
    assert all(masked.present(table, his) == set() for table in TABLES)
    assert len(masked.present("staging.raw_logins", others)) == len(others)
    # a value shared with another person stays recoverable for them
    assert masked.reveal(token) == {(token, "2001:db8:ffff::3")}
    assert masked.rows("select actor, details from recovery.audit where act = 'erased'") == [
        ("privacy_officer", {"persons": 1, "raw_messages": 7, "logins": 2, "rejections": 5})
    ]
    assert "u-erased" not in masked.value("select user_token from recovery.tombstones")
    marts = {f"marts.{'user' if one.body in logins else 'rejected'}_logins_{one.sent_at:%Y%m}" for one in his}
    assert {name for name, file in masked.rows(FILES) if files_before[name] != file} == marts | {one.partition for one in his}

    again = masked.run("erase", stdin="u-erased\n")
    assert again.stdout == "erased: 0 raw messages, 0 logins, 0 rejections\n"
    assert masked.value("select count(*) from recovery.tombstones") == 1


def test_the_same_messages_and_new_ones_stay_away_though_they_land_while_dbt_runs(masked: Masked, story: dict[str, Message]) -> None:
    erase(masked)
    early, late = ([message(login("u-erased", ip).body.replace("u-erased", shape)) for shape in SHAPES] for ip in ("::5", "::6"))
    again = [*(one for name, one in story.items() if name.startswith("erased")), *early]
    bystander = login("u-bystander")
    masked.land([*again, bystander])
    with masked.connect("transformer", autocommit=False) as dbt:
        dbt.execute(BEGIN_JUDGING)
        masked.land(late)
        # control: they did land, and a snapshot of now would see them
        assert len(masked.present("staging.unjudged_logins", late)) == len(SHAPES)
        assert dbt.execute("select message_id from staging.unjudged_logins").fetchall() == [(bystander.message_id,)]
        dbt.commit()

    masked.mask()

    assert all(masked.present(table, [*again, *late]) == set() for table in TABLES)
    assert masked.present("marts.user_logins", [bystander])
    masked.dbt("test", "--select", "assert_every_message_is_masked_or_rejected", "assert_no_erased_message_is_back")


def test_an_erased_message_stays_away_though_half_of_the_memory_is_deleted_by_hand(masked: Masked, story: dict[str, Message]) -> None:
    erase(masked)
    masked.land([story["erased"]])
    # the control comes last: without either it is back
    for forgotten in (["tombstones"], ["erased_messages"], ["tombstones", "erased_messages"]):
        with masked.connect(autocommit=False) as admin:
            admin.execute("set transaction isolation level repeatable read")
            for table in forgotten:
                admin.execute(f"delete from recovery.{table}".encode())
            admin.execute("select staging.begin_judging()")
            back = admin.execute("select message_id from staging.unjudged_logins").fetchall()
            admin.rollback()
        assert back == ([(story["erased"].message_id,)] if len(forgotten) > 1 else []), forgotten


ACTS = [("privacy_officer", f"recovery.{act}", "read committed") for act in ("erase('{u-old}')", "rotate()", "expire_next()")]


@pytest.mark.parametrize(("role", "act", "wanted"), [*ACTS, ("transformer", "staging.begin_judging()", "repeatable read")])
def test_an_act_under_a_snapshot_not_of_its_locks_time_is_refused(masked_for_module: Masked, role: str, act: str, wanted: str) -> None:
    """A message that lands between the two would be overlooked, or masked without having been looked at."""
    for level in {"read committed", "repeatable read", "serializable"} - {wanted}:
        with masked_for_module.connect(role, autocommit=False) as connection:
            connection.execute(f"set transaction isolation level {level}".encode())
            with pytest.raises(errors.ActiveSqlTransaction, match=f"runs in {wanted} transactions only; this one is {level}"):
                connection.execute(f"select {act}".encode())


def test_ids_from_another_systems_list_are_matched_as_they_are_meant(masked: Masked) -> None:
    """With the spaces that were sent or without, a number however it is spelled, beside a byte-order mark, CRLF and blank lines."""
    cases = [*itertools.product(SPACES, (True, False)), ("\u2003{}", True)]  # a space of another kind is a part of the id
    ids = [(spaces.format(f"u-{number}"), as_sent, f"u-{number}") for number, (spaces, as_sent) in enumerate(cases)]
    landed = [login(sent) for sent, _, _ in ids]
    numbers = [message(login("u-number").body.replace('"u-number"', spelled)) for spelled in ("1e2", "100", "100.5")]
    masked.land([*landed, *numbers])
    masked.mask()
    assert len(masked.present("marts.user_logins", landed)) == len(cases)
    given = ["", *(sent if as_sent else bare for sent, as_sent, bare in ids), "100", "U-ERASED", "u-old"]

    # a default of the database's, which the command needs otherwise and sets for itself
    masked.execute(f"alter database {masked.name} set default_transaction_isolation = 'repeatable read'")
    done = masked.run("erase", stdin="\ufeff" + "\r\n".join(given))

    assert done.stdout.splitlines() == [
        *["erased: 1 raw messages, 1 logins, 0 rejections"] * len(cases),
        "erased: 2 raw messages, 0 logins, 2 rejections",
        "erased: 0 raw messages, 0 logins, 0 rejections",
        "erased: 1 raw messages, 1 logins, 0 rejections",
    ]
    assert (done.returncode, done.stderr) == (os.EX_DATAERR, "line 12 matched nothing; compare the id with what the producer sends\n")
    assert masked.present("marts.user_logins", landed) == masked.present("staging.raw_logins", landed) == set()
    assert masked.rows("select from recovery.scrubs") == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"u-old\nu-\xff\n", "line 2 is not UTF-8; save the list as UTF-8 text; nothing was erased\n"),
        (b"u-old\nu-\0\n", "line 2 holds a NUL; save the list as UTF-8 text; nothing was erased\n"),
        ("u-old".encode("utf-16"), "line 1 is not UTF-8; save the list as UTF-8 text; nothing was erased\n"),
        (b"\n \n", "no user_id is given; write one a line to standard input\n"),
    ],
    ids=["Latin-1", "NUL", "UTF-16", "blank"],
)
def test_a_list_that_is_no_text_or_has_no_id_erases_nobody(masked_for_module: Masked, given: bytes, said: str) -> None:
    done = masked_for_module.run("erase", stdin=given)
    assert (done.returncode, done.stdout, done.stderr) == (os.EX_DATAERR, "", said)
    with pytest.raises(errors.InvalidParameterValue):
        masked_for_module.execute("select recovery.erase(array['u-old', '  '])", role="privacy_officer")
    assert masked_for_module.rows("select from recovery.tombstones") == []


def test_many_persons_are_erased_in_one_call_with_all_their_bytes_and_each_has_their_own_counts(masked: Masked) -> None:
    """Persons who are in one message together, one who is given twice, and one of whom nothing is left but logins."""
    old = login("u-many-299", days_ago=50)
    # often enough for ANALYZE to note the device, were it let
    theirs = [login(f"u-many-{number}", device_id="canary-device-many") for number in range(300) for _ in range(number % 3)]
    masked.land([*theirs, message("u-many-1 and u-many-2 in one sentence"), old])
    masked.mask()
    masked.execute(f"drop table {old.partition}")
    masked.execute("vacuum analyze")
    # control: they are there
    assert all(masked.files_with(canary) for canary in ("canary-device-many", "u-many-"))

    done = masked.run("erase", stdin="\n".join([*(f"u-many-{number}" for number in range(300)), " u-many-1", "u-none"]))

    expected = [(number % 3, number % 3, 0) for number in range(300)]
    expected[1], expected[2], expected[299] = (2, 1, 1), (3, 2, 1), (2, 3, 0)
    counts = [tuple(int(word) for word in line.split() if word.isdecimal()) for line in done.stdout.splitlines()]
    assert counts == [*expected, expected[1], (0, 0, 0)]
    assert masked.files_with("canary-device-many") == masked.files_with("u-many-") == set()
    assert masked.value("select count(*) from recovery.tombstones") == 301
    details = {"persons": 301, "raw_messages": 301, "logins": 301, "rejections": 1}
    assert masked.rows("select details from recovery.audit") == [(details,)]


def test_erase_refuses_where_a_partition_is_detached_and_names_it(masked: Masked) -> None:
    for parent in TABLES:
        partition = masked.value(f"select max(inhrelid::regclass::text) from pg_inherits where inhparent = '{parent}'::regclass")
        masked.execute(f"alter table {parent} detach partition {partition}")
        done = masked.run("erase", stdin="u-erased\n")
        assert (done.returncode, done.stdout, done.stderr) == (os.EX_SOFTWARE, "", DETACHED.format(partition.partition(".")[2]))
        assert masked.rows("select from recovery.tombstones") == []
        masked.execute(f"drop table {partition}")
    # control: without them
    assert erase(masked)


def test_a_message_in_hex_is_the_persons_when_the_id_is_a_word_of_it(masked_for_module: Masked) -> None:
    event = b'{"user_id": "%s", "ip": "\0"}'
    his = [event % b"u-1", b"u-1", b"\0u-1\0", b"\0u-12 u-1\0"]
    # in the last are the id's digits, half a byte off
    others = [event % b"u-12", event % b"zu-1", event % b"u-1_b", bytes.fromhex("0" + b"u-1".hex() + "0")]
    mentions = "select recovery.mentions_user('\\x{}', 'u-1')"
    assert [body for body in his + others if masked_for_module.value(mentions.format(body.hex()))] == his


@pytest.mark.parametrize("letter", ["u", "é", "😀", '"', "\\", "/", "\t", ".", "("], ids=ascii)
def test_a_message_in_an_envelope_is_the_persons_however_deep_its_escapes_are(masked_for_module: Masked, letter: str) -> None:
    """SNS (once, twice, around EventBridge), EventBridge, JSON in a string; with JSON's escapes and without."""
    others = ["axb", "aèb", "a😁b", f"a{letter}bc", *(["a", "b", "au", "ub"] if letter == "u" else [])]
    with masked_for_module.connect() as admin:
        for ascii_only in (True, False):
            body = json.dumps({"user_id": f"a{letter}b", "locale": "de_DE"}, ensure_ascii=ascii_only)
            event = json.dumps({"detail": json.loads(body)}, ensure_ascii=ascii_only)
            bodies = [event, json.dumps(body, ensure_ascii=ascii_only)]
            for each in (body, event):
                bodies.append(json.dumps({"Type": "Notification", "Message": each}, ensure_ascii=ascii_only))
                bodies.append(json.dumps({"Type": "Notification", "Message": bodies[-1]}, ensure_ascii=ascii_only))
            for enveloped in bodies:
                named = "select id from unnest(%s::text[]) as id where recovery.mentions_user(%s, id)"
                assert admin.execute(named, ([f"a{letter}b", *others], enveloped)).fetchall() == [(f"a{letter}b",)], enveloped


@pytest.mark.parametrize("parent", ["marts.user_logins", "staging.raw_logins"])
def test_scrubbing_and_a_reader_who_goes_on_to_write_do_not_wait_for_each_other(masked: Masked, parent: str) -> None:
    relation = masked.value(f"select max(inhrelid::regclass::text) from pg_inherits where inhparent = '{parent}'::regclass")
    masked.execute(f"insert into recovery.scrubs (relation) values ('{relation}')")
    with masked.connect(autocommit=False) as writer, ThreadPoolExecutor() as officers:
        writer.execute(f"select count(*) from {relation}".encode())
        scrubbing = officers.submit(masked.rows, "select recovery.scrub(relation) from recovery.scrubs", "privacy_officer")
        masked.wait_until("select from pg_locks where not granted and mode = 'AccessExclusiveLock'")
        # at once: what the reader waited for would be waiting for it
        writer.execute("set local lock_timeout = '50ms'")
        writer.execute(f"delete from {relation} where false".encode())
        writer.rollback()
        assert len(scrubbing.result()) == 1


@pytest.mark.parametrize(
    ("act", "begun"),
    [
        ("erase('{u-erased}')", BEGIN_JUDGING),
        ("rotate()", BEGIN_JUDGING),
        ("expire_next()", b"select count(*) from staging.raw_logins"),
    ],
)
def test_an_act_gives_way_to_dbt_which_has_read_what_it_is_about_and_loading_goes_on(masked: Masked, act: str, begun: bytes) -> None:
    with masked.connect("transformer", autocommit=False) as dbt, masked.connect("privacy_officer") as officer:
        dbt.execute(begun)
        officer.execute("set lock_timeout = '200ms'")
        with pytest.raises(errors.LockNotAvailable):
            officer.execute(f"select recovery.{act}".encode())
        masked.land([login("u-meanwhile")])
        dbt.rollback()
        # control: with dbt's transaction over, it does not wait
        officer.execute(f"select recovery.{act}".encode())


def test_bytes_that_an_open_transaction_may_still_read_are_scrubbed_when_it_ends(masked: Masked) -> None:
    with masked.connect("transformer", autocommit=False) as reader, masked.connect("privacy_officer") as officer:
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select")
        officer.execute("select recovery.erase('{u-old}')")
        relation = officer.execute("select relation::oid from recovery.scrubs order by relation limit 1").fetchone()
        assert officer.execute("select recovery.scrub(%s::oid)", relation).fetchone() == (False,)
        reader.rollback()
        assert officer.execute("select recovery.scrub(%s::oid)", relation).fetchone() == (True,)
