"""What a login arrives in: each envelope is opened, a batch becomes a message an event, and whatever is damaged is rejected."""

import base64
import gzip
import io
import json
import os
import random
import zlib
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.judging.conftest import GOOD, LOGIN, Places, Warehouse
from tests.judging.test_fields import reveal
from tests.support import Database

DAMAGED = 20_000 if os.environ.get("FAULTS") == "full" else 1_000
WORDS = ["sns", "eventbridge", "cloudevents", "json_text", "base64", "gzip", "batch"]
# JSON has many spellings, and what is inside comes out in the one that was sent
EVENT = '{"user_id" :"u1", "user_id":"u2","name": "\\u00e9€😀", "number":1.0}'
CONFIRMATION = {"Type": "SubscriptionConfirmation", "TopicArn": "arn:aws:sns:eu-west-1:111122223333:logins", "SubscribeURL": "https://x"}
CLOUD_EVENT = {"specversion": "1.0", "type": "login", "source": "/app", "id": "1"}
POINTER = ["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": "a", "s3Key": "b"}]


def sns(inside: str) -> str:
    return json.dumps({"Type": "Notification", "TopicArn": CONFIRMATION["TopicArn"], "Message": inside, "MessageAttributes": {}})


def eventbridge(inside: str) -> str:
    return f'{{"version": "0", "detail-type": "login", "source": "app", "resources": [], "detail": {inside}}}'


def cloudevents(inside: str) -> str:
    return f'{json.dumps(CLOUD_EVENT)[:-1]}, "data": {inside}}}'


def base64_text(inside: str | bytes) -> str:
    return base64.b64encode(inside if isinstance(inside, bytes) else inside.encode()).decode()


def gzip_text(inside: str | bytes) -> str:
    return base64_text(gzip.compress(inside if isinstance(inside, bytes) else inside.encode()))


def nested(wrap: Callable[[str], str], times: int, inside: str = EVENT) -> str:
    return wrap(nested(wrap, times - 1, inside)) if times else inside


# What is opened, and what is inside: EVENT, unless it is said.
OPENED: list[tuple[str, str, str]] = [
    ("", EVENT, EVENT),
    ("", f"\t\r\n {EVENT}\n", f"\t\r\n {EVENT}\n"),
    ("", '{"detail": {}, "source": "app", "Message": "x", "Records": [], "data": {}}', "itself"),
    ("", eventbridge("1"), "itself"),
    ("", json.dumps(CLOUD_EVENT | {"data": None}), "itself"),
    ("sns", sns(EVENT), EVENT),
    ("eventbridge", eventbridge(EVENT), EVENT),
    ("eventbridge", eventbridge(json.dumps(EVENT)), EVENT),
    ("cloudevents", cloudevents(EVENT), EVENT),
    ("cloudevents", cloudevents(json.dumps(EVENT)), EVENT),
    ("cloudevents base64", json.dumps(CLOUD_EVENT | {"data_base64": base64_text(EVENT)}), EVENT),
    ("json_text", json.dumps(EVENT), EVENT),
    ("base64", base64_text(EVENT), EVENT),
    ("base64", base64_text(EVENT).rstrip("="), EVENT),
    ("base64", base64.urlsafe_b64encode(EVENT.encode()).decode(), EVENT),
    ("base64", base64.encodebytes(EVENT.encode()).decode(), EVENT),
    ("base64", base64_text(f"\n {EVENT}"), f"\n {EVENT}"),
    ("gzip", gzip_text(EVENT), EVENT),
    ("batch", f"[{EVENT}]", f"[{EVENT}]"),
    ("eventbridge batch", eventbridge(f"[1, {EVENT}]"), f"[1, {EVENT}]"),
    ("sns eventbridge sns gzip batch", sns(eventbridge(sns(gzip_text(f"[{EVENT}]")))), f"[{EVENT}]"),
    ("base64 json_text gzip", base64_text(json.dumps(gzip_text(EVENT))), EVENT),
    ("json_text " * 8, nested(json.dumps, 8), EVENT),
]
REJECTED: dict[str, list[str]] = {
    "body_not_json": [
        "",
        "A",
        "oops",
        "====",
        json.dumps("oops"),
        sns("oops"),
        base64_text("oops"),
        base64_text("{oops"),
        base64_text(b'{"\xff"}'),
        base64_text(b'{"\xed\xa0\x80"}'),
        base64_text(b'{"\xc0\x80"}'),
        base64_text(b'{"\xf4\x90\x80\x80"}'),
        base64_text(EVENT + "\0"),
        base64_text('{"\\u0000": 1}'),
        base64_text("[" * 8193 + "]" * 8193),
        gzip_text("oops"),
        gzip_text(b'{"\xff"}'),
        gzip_text(EVENT)[:-4],
        gzip_text("[" + " " * (1 << 20) + "]"),
        sns("[" * 100_000),
    ],
    "body_not_an_object": ["1", "null", json.dumps("1"), base64_text(json.dumps("true"))],
    "body_is_empty_batch": ["[]", eventbridge("[]")],
    "body_in_s3": [json.dumps(POINTER), sns(json.dumps(POINTER))],
    "body_is_s3_event": [json.dumps({"Records": [{"eventSource": "aws:s3", "s3": {}}]})],
    "body_is_sns_confirmation": [json.dumps(CONFIRMATION), json.dumps(CONFIRMATION | {"Type": "UnsubscribeConfirmation"})],
    "body_in_cloudevents_dataref": [json.dumps(CLOUD_EVENT | {"dataref": "https://example.com/1"})],
    "body_in_too_many_envelopes": [nested(json.dumps, 9), nested(sns, 9)],
}


def row(connection: psycopg.Connection[Any], query: str, *parameters: str) -> tuple[Any, ...]:
    """The first row of *query*."""
    return next(iter(connection.execute(query.encode(), parameters)))


def test_each_envelope_is_opened_and_what_is_inside_is_as_it_was_sent(database: Database) -> None:
    with database.connect() as connection:
        for envelopes, body, inside in OPENED:
            *found, content = row(connection, "select envelopes, fault, content from staging.open_body(%s)", body)
            assert (found, content) == ([envelopes.split(), None], body if inside == "itself" else inside), body
            is_wrapped, event = row(
                connection, "select staging.body_is_wrapped(body), staging.event(body) from (select %s) as one (body)", body
            )
            assert event == ("body_is_batch" if "batch" in envelopes else json.loads(content)), body
            assert is_wrapped or not envelopes, body


def test_what_holds_no_event_is_rejected_for_what_it_is(database: Database) -> None:
    bodies = {body: reason for reason, those in REJECTED.items() for body in those}
    with database.connect() as connection:
        found = {body: row(connection, "select staging.event(%s)", body)[0] for body in bodies}
    assert {body[:200]: (bodies[body], reason) for body, reason in found.items() if reason != bodies[body]} == {}


def test_an_envelope_that_is_not_declared_is_rejected_and_the_others_are_opened(database: Database) -> None:
    with database.connect(autocommit=False) as connection:
        for word in WORDS:
            others = [other for other in WORDS if other != word]
            connection.execute(
                f"create or replace function staging.envelopes() returns text[] language sql immutable return array{others}".encode()
            )
            for envelopes, body, inside in OPENED:
                fault, content = row(connection, "select fault, content from staging.open_body(%s)", body)
                expected = ("body_is_batch" if word == "batch" else f"body_in_{word}") if word in envelopes.split() else None
                # recovery searches the same content
                assert (fault, content) == (expected, body if inside == "itself" else inside), (word, body)


def test_workers_open_envelopes_too(database: Database) -> None:
    """An exception that is caught is a subtransaction, which a parallel worker refuses."""
    bodies = [body for _, body, _ in OPENED] + [body for those in REJECTED.values() for body in those if "\0" not in body]
    with database.connect() as connection:
        connection.execute("create table bodies as select unnest(%s::text[]) as body", [bodies])
        connection.execute("set debug_parallel_query = on")
        assert "Gather" in row(connection, "explain select staging.event(body) from bodies")[0]
        assert len(connection.execute("select staging.event(body) from bodies").fetchall()) == len(bodies)


def member(content: bytes, chance: random.Random) -> bytes:
    """*content* as a gzip file by one of zlib's ways, with a file name now and then."""
    level, strategy, file = chance.randrange(10), chance.randrange(5), io.BytesIO()
    if chance.random() < 0.3:
        with gzip.GzipFile(chance.choice(["", "logins.json"]), "wb", level, file) as writer:
            writer.write(content)
        return file.getvalue()
    compressor = zlib.compressobj(level, zlib.DEFLATED, 31, 9, strategy)
    return compressor.compress(content) + compressor.flush()


def contents(chance: random.Random) -> bytes:
    """Logins, noise, or long repetitions."""
    return chance.choice(
        [
            json.dumps([LOGIN | {"user_id": str(chance.random())} for _ in range(chance.randrange(9))]).encode(),
            chance.randbytes(chance.randrange(300)),
            bytes(chance.choices(b"ab", k=chance.randrange(3000))) + b"a" * chance.randrange(10_000),
        ]
    )


def damaged(data: bytes, chance: random.Random) -> bytes:
    """*data* cut off, or with a bit turned, a byte put in or another taken out."""
    at = chance.randrange(len(data))
    return chance.choice(
        [
            data[:at],
            data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :],
            data[:at] + chance.randbytes(1) + data[at:],
            data[:at] + data[at + 1 :],
        ]
    )


def test_gzip_is_opened_as_zlib_does_and_never_to_something_else(database: Database) -> None:
    chance = random.Random(1952)  # noqa: S311  # the same ones every time
    header = b"\x1f\x8b\x08\x1f" + bytes(6) + b"\x03\0abcname\0comment\0\xff\xff"  # all that a header may have, by RFC 1952
    with database.connect() as connection:

        def gunzip(data: bytes) -> bytes | None:
            (found,) = connection.execute("select staging.gunzip(%b)", [data], binary=True).fetchone() or (None,)
            return None if found is None else bytes(found)

        for _ in range(DAMAGED // 10):
            content = contents(chance)
            data = member(content, chance)
            assert gunzip(data) == content
            assert gunzip(header + gzip.compress(content)[10:]) == content
            for _ in range(5):
                broken = damaged(data, chance)
                # what lies in the header is not checked by a sum
                assert gunzip(broken) in {None, content}, broken.hex()
        largest = b"[" + b" " * ((1 << 20) - 2) + b"]"
        assert gunzip(gzip.compress(largest)) == largest
        assert gunzip(gzip.compress(largest + b" ")) is None


def test_whatever_is_damaged_ends_in_one_place(warehouse: Warehouse) -> None:
    chance = random.Random(8259)  # noqa: S311  # the same ones every time
    wraps: list[Callable[[str], str]] = [
        sns,
        lambda inside: eventbridge(json.dumps(inside)),
        cloudevents,
        json.dumps,
        base64_text,
        gzip_text,
    ]
    bodies = {}
    for number in range(DAMAGED):
        body = chance.choice([GOOD, GOOD, f"[{GOOD}, {GOOD}]"])
        for _ in range(chance.randrange(1, 4)):
            body = chance.choice(wraps)(body)
            if chance.random() < 0.3:
                body = damaged(body.encode(), chance).decode(errors="replace")
        bodies[f"m{number}"] = body
    warehouse.land(bodies)

    warehouse.dbt("run")

    masked, rejected, waiting = warehouse.places()
    ended = [*masked, *rejected]
    assert {one.partition("#")[0] for one in ended} == set(bodies)
    assert len(ended) == len(set(ended)) == warehouse.database.value("select count(*) from staging.raw_logins")
    assert len(masked) > DAMAGED / 3
    assert len(rejected) > DAMAGED / 10
    assert waiting == []


def login(number: int) -> str:
    return json.dumps(LOGIN | {"user_id": f"u{number}", "ip": f"192.0.2.{number}"})


BATCH = {"m": sns(gzip_text(f" [{login(1)} ,\n{login(2)}, 7, {sns(login(3))}, {eventbridge(login(4))}, {login(5)}]"))}
PARTS = {
    "m#1": login(1),
    "m#2": login(2),
    "m#3": "7",
    "m#4": sns(login(3)),
    "m#5": eventbridge(login(4)),
    "m#6": login(5),
}
MASKED = sorted(PARTS.keys() - {"m#3"})


def test_each_event_of_a_batch_is_a_message_and_a_batch_that_comes_again_changes_nothing(warehouse: Warehouse) -> None:
    raw = "select message_id, sent_at, landed_at, attributes, body from staging.raw_logins order by message_id"
    warehouse.land(BATCH)
    warehouse.database.execute("""update staging.raw_logins set attributes = '{"ApproximateReceiveCount": "1"}'""")
    ((_, *same, _),) = warehouse.database.rows(raw)
    places: Places = (MASKED, ["m#3"], [])

    warehouse.dbt("run")

    assert warehouse.database.rows(raw) == [(message_id, *same, body) for message_id, body in PARTS.items()]
    assert (warehouse.places(), warehouse.reasons()) == (places, {"m#3": ["body_not_an_object"]})
    seen = "select message_id, user_id, sent_at from marts.user_logins order by message_id"
    assert warehouse.database.rows(seen) == [(message_id, f"u{number}", same[0]) for number, message_id in enumerate(MASKED, 1)]
    ((token,),) = warehouse.database.rows("select masked_ip from marts.user_logins where message_id = 'm#5'")
    assert reveal(warehouse, token) == [(token, "ip", "192.0.2.4", 1)]

    warehouse.land(BATCH, same[0])
    warehouse.dbt("run")

    assert warehouse.database.rows(raw) == [(message_id, *same, body) for message_id, body in PARTS.items()]
    assert warehouse.places() == places
    warehouse.dbt("test", "--exclude", "assert_few_messages_are_rejected")


@pytest.mark.parametrize("has_run", [True, False])
def test_one_person_of_a_batch_is_erased_and_stays_away_when_the_batch_comes_again(warehouse: Warehouse, has_run: bool) -> None:  # noqa: FBT001
    database = warehouse.database
    warehouse.land(BATCH)
    sent_at = database.value("select sent_at from staging.raw_logins")
    if has_run:
        warehouse.dbt("run")
    others = sorted(PARTS.keys() - {"m#5"})

    erased = database.rows("select raw_messages, logins, rejections from recovery.erase(array['u4'])", "privacy_officer")

    assert erased == [(1, int(has_run), 0)]
    assert database.rows("select message_id from staging.raw_logins order by 1") == [(one,) for one in others]
    # under the same id and under another
    warehouse.land(BATCH, sent_at)
    warehouse.land({"again": BATCH["m"]})
    warehouse.dbt("run")
    again = [one.replace("m", "again") for one in others]
    assert database.rows("select message_id from staging.raw_logins order by 1") == sorted((one,) for one in [*others, *again])
    assert warehouse.places()[2] == []
    assert database.value("select count(*) from marts.user_logins where user_id = 'u4'") == 0
    warehouse.dbt("test", "--exclude", "assert_few_messages_are_rejected")


@pytest.mark.slow
def test_a_batch_deep_in_batches_is_rejected_and_what_is_switched_off_waits_for_its_switch(warehouse: Warehouse) -> None:
    deep = "[" * 8192 + "]" * 8192
    warehouse.edit("database/6_fields.sql", "'gzip', 'batch']", "'gzip']")
    warehouse.migrate()
    warehouse.land({"deep": deep, "several": f"[{login(1)}, {login(2)}]", "one": sns(login(3))})
    warehouse.dbt("run")
    assert warehouse.reasons() == {"deep": ["body_is_batch"], "several": ["body_is_batch"]}
    warehouse.edit("database/6_fields.sql", "'gzip']", "'gzip', 'batch']")
    warehouse.migrate()

    for _ in range(2):
        warehouse.dbt("run-operation", "judge_again")
        warehouse.dbt("run")

        assert warehouse.places() == (["one", "several#1", "several#2"], ["deep#1"], [])
        assert warehouse.reasons() == {"deep#1": ["body_is_batch"]}


def test_a_few_bytes_do_not_become_millions_of_messages_and_what_was_rejected_as_a_batch_is_in_one_place(warehouse: Warehouse) -> None:
    bomb = gzip_text(json.dumps([gzip_text(f"[{'0,' * 9_999}0]")] * 3))
    warehouse.edit("database/6_fields.sql", "'gzip', 'batch']", "'gzip']")
    warehouse.migrate()
    warehouse.land({"again": f"[{login(1)}]"})
    warehouse.dbt("run")
    warehouse.edit("database/6_fields.sql", "'gzip']", "'gzip', 'batch']")
    warehouse.migrate()
    warehouse.land({"bomb": bomb, "wide": f"[{'0,' * 10_000}0]"})
    # delivered again
    warehouse.database.execute("insert into staging.unjudged (message_id, sent_at) select message_id, sent_at from marts.rejected_logins")
    warehouse.dbt("run")

    parts = {f"bomb#{place}": ["body_is_batch"] for place in (1, 2, 3)}
    assert warehouse.reasons() == {"wide": ["body_is_too_large_batch"], **parts}
    assert warehouse.places() == (["again#1"], [*parts, "wide"], [])


def test_a_batch_that_was_erased_whole_stays_away_when_batches_are_opened_again(warehouse: Warehouse) -> None:
    database = warehouse.database
    batch = {"m": f'[{login(1)}, {{"who": "u1"}}, {login(2)}]'}
    warehouse.edit("database/6_fields.sql", "'gzip', 'batch']", "'gzip']")
    warehouse.migrate()
    warehouse.land(batch)
    sent_at = database.value("select sent_at from staging.raw_logins")
    assert database.rows("select raw_messages from recovery.erase(array['u1'])", "privacy_officer") == [(1,)]
    warehouse.edit("database/6_fields.sql", "'gzip']", "'gzip', 'batch']")
    warehouse.migrate()

    warehouse.land(batch, sent_at)
    warehouse.dbt("run", "--select", "marts")

    assert (warehouse.places(), database.rows("select from staging.raw_logins")) == (([], [], []), [])


def test_a_person_is_found_where_the_user_id_is_blank(warehouse: Warehouse) -> None:
    warehouse.land({"blank": json.dumps(LOGIN | {"user_id": " ", "name": "u7"}), "other": GOOD})
    erased = warehouse.database.rows("select raw_messages from recovery.erase(array['u7'])", "privacy_officer")
    assert erased == [(1,)]
    assert warehouse.database.rows("select message_id from staging.raw_logins") == [("other",)]


def test_a_run_takes_no_more_than_it_may_of_what_is_in_batches(warehouse: Warehouse) -> None:
    for number in range(4):
        warehouse.land({f"m{number}": f"[{login(1)}, {login(2)}]"})

    warehouse.dbt("run", "--vars", "max_messages_per_run: 2")

    assert warehouse.places() == (["m0#1", "m0#2"], [], ["m1#1", "m1#2", "m2", "m3"])


@pytest.mark.parametrize("wrap", [sns, base64_text, gzip_text, json.dumps, lambda inside: sns(base64_text(json.dumps(gzip_text(inside))))])
def test_a_person_is_found_in_an_envelope_without_a_readable_id(database: Database, wrap: Callable[[str], str]) -> None:
    his = ['{"user": "u-1"}', '[{"user_id": "u-1"}]', '{"user_id": "u-1", "ip"']
    others = [one.replace("u-1", other) for one in his for other in ("u-12", "xu-1")]
    with database.connect() as connection:
        query = "select recovery.mentions_user(recovery.searchable_text(%s), 'u-1')"
        found = [inside for inside in his + others if row(connection, query, wrap(inside)) == (True,)]
    assert found == his


def test_dbt_its_tests_erasure_reveal_and_rotation_read_an_event_by_one_function(warehouse: Warehouse) -> None:
    """Each finds the login in every envelope; with that one function broken, none does."""
    database = warehouse.database
    inside = {"bare": GOOD, "batch": f"[{GOOD}]"}
    inside |= {wrap.__name__: wrap(GOOD) for wrap in (sns, eventbridge, cloudevents, json.dumps, base64_text, gzip_text)}

    def found() -> dict[str, int]:
        """How many messages are read for each act."""
        revealed = reveal(warehouse, database.value("select min(masked_ip) from marts.user_logins"))
        return {
            "dbt": database.value("select count(*) from staging.logins where reasons is null"),
            "erasure": database.value("select count(*) from staging.message_users where user_id = 'u1'"),
            "reveal": sum(int(str(messages)) for *_, messages in revealed),
        }

    warehouse.land(inside)
    warehouse.dbt("run")
    assert found() == dict.fromkeys(("dbt", "erasure", "reveal"), len(inside))
    database.rows("select recovery.rotate()", "privacy_officer")
    assert database.value("select count(*) from marts.user_logins where masked_ip like 'v2:%'") == len(inside)
    warehouse.dbt("test", "--select", "assert_plain_columns_are_as_sent")

    database.execute("create or replace function staging.event(body text) returns jsonb language sql stable return '\"broken\"'::jsonb")
    assert found() == dict.fromkeys(("dbt", "erasure", "reveal"), 0)
    with pytest.raises(psycopg.errors.DataException, match="tokens are not made of their message"):
        database.rows("select recovery.rotate()", "privacy_officer")
    warehouse.dbt("test", "--select", "assert_plain_columns_are_as_sent", code=1)
