"""One batch into staging."""

import asyncio
import os
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.delivery import Delivery, storable
from loader.errors import LoaderError, TemporaryError
from loader.landing import Landing
from loader.settings import LoaderSettings
from tests.support import Database

SENT_MS = 1_790_000_000_123


class Message(NamedTuple):
    message_id: str
    body: str = "{}"
    sent_ms: int = SENT_MS
    attributes: str = "{}"


@pytest.fixture
def settings(database: Database, monkeypatch: pytest.MonkeyPatch) -> LoaderSettings:
    for name, value in (("PGHOST", "127.0.0.1"), ("PGPORT", str(database.server.port)), ("PGDATABASE", database.name)):
        monkeypatch.setenv(name, value)
    password = database.passwords["loader"]
    return LoaderSettings(sqs_queue_url="http://127.0.0.1:1/q", pghost="127.0.0.1", pguser="loader", pgpassword=password)


def land(settings: LoaderSettings, *batches: Sequence[Message]) -> list[int]:
    """Land *batches* one after the other, and return how many rows of each were new."""

    async def work() -> list[int]:
        opened = Landing(settings)
        try:
            return [await opened.land([delivery(batch)]) for batch in batches]
        finally:
            await opened.close()

    return asyncio.run(work())


def delivery(messages: Sequence[Message]) -> Delivery:
    made = Delivery(0)
    for message_id, body, sent_ms, attributes in messages:
        made.add("handle", message_id, sent_ms, body, attributes)
    return made


def test_the_first_landing_of_a_message_wins_and_others_are_counted(database: Database, settings: LoaderSettings) -> None:
    first, second = [Message("a", "first"), Message("b"), Message("a", "first")], [Message("a", "second"), Message("c")]
    assert land(settings, first, second) == [2, 1]
    landed = database.rows("select message_id, body, (extract(epoch from sent_at) * 1000)::bigint from staging.raw_logins order by 1")
    assert landed == [("a", "first", SENT_MS), ("b", "{}", SENT_MS), ("c", "{}", SENT_MS)]


def test_a_batch_of_many_days_lands_whole_and_again_where_a_partition_was_dropped(database: Database, settings: LoaderSettings) -> None:
    days = [Message(f"m{day}", sent_ms=SENT_MS + day * 86_400_000) for day in range(40)]
    assert land(settings, days) == [40]
    with database.connect() as connection:
        connection.execute(f"drop table {database.value('select min(tableoid::regclass::text) from staging.raw_logins')}".encode())
    assert land(settings, days) == [1]
    assert database.value("select count(distinct tableoid) from staging.raw_logins") == 40


def test_rows_are_inserted_in_the_order_of_their_keys(database: Database, settings: LoaderSettings) -> None:
    """So two loaders with the same messages wait for each other, and never in a circle."""
    land(settings, [Message("warm-up")], [Message(message_id) for message_id in ("c", "a", "d", "b")])
    assert database.rows("select message_id from staging.raw_logins order by ctid offset 1") == [("a",), ("b",), ("c",), ("d",)]


@given(st.text(st.characters(exclude_categories=[])))
def test_every_body_can_be_stored_and_recovered(body: str) -> None:
    stored = storable(body)
    assert b"\0" not in stored
    if stored.decode() != body:
        assert bytes.fromhex(stored.decode().removeprefix("\\x")).decode(errors="surrogatepass") == body


def test_a_body_that_text_cannot_hold_lands_as_hex_of_its_utf8(database: Database, settings: LoaderSettings) -> None:
    bodies = ["\0", "a\0b", "\ud800", '{"ip": "\udfff"}']
    assert land(settings, [Message(str(number), body) for number, body in enumerate(bodies)]) == [4]
    landed = database.rows("select body, pg_input_is_valid(body, 'jsonb') from staging.raw_logins order by message_id")
    assert landed == [("\\x" + body.encode(errors="surrogatepass").hex(), False) for body in bodies]


@pytest.mark.parametrize("attributes", ['{"a": 1}', '{"a": "\\u0000"}', '{"a": "\0"}', '{"a": "\ud800"}', "no JSON"])
def test_attributes_land_as_they_are_or_as_a_string_where_jsonb_cannot_hold_them(
    database: Database, settings: LoaderSettings, attributes: str
) -> None:
    assert land(settings, [Message("a", attributes=attributes)]) == [1]
    (landed,) = database.rows("select attributes from staging.raw_logins")
    assert landed == ({"a": 1} if attributes == '{"a": 1}' else storable(attributes).decode(),)


@pytest.mark.parametrize(
    ("failure", "said", "exit_code"),
    [
        ("raise sqlstate '53100' using message = 'no room'", "SQLSTATE 53100: no room", None),
        ("perform pg_terminate_backend(pg_backend_pid())", "SQLSTATE 57P01: ", None),
        ("raise sqlstate '42501' using message = 'no'", "PostgreSQL refuses role loader (SQLSTATE 42501: no); run ", os.EX_NOPERM),
        ("raise sqlstate '42P07' using message = 'there'", "PostgreSQL cannot land a batch: SQLSTATE 42P07: there", os.EX_SOFTWARE),
        ("null", "staging.raw_logins takes no row of this day; run python -m loader migrate", os.EX_CONFIG),
    ],
)
def test_a_day_whose_partition_is_not_made_is_tried_again_where_that_may_help(
    database: Database, settings: LoaderSettings, failure: str, said: str, exit_code: int | None
) -> None:
    with database.connect() as connection:
        connection.execute(
            f"""
            create or replace function staging.ensure_partitions(dates date[]) returns void language plpgsql security definer as
            $$ begin {failure}; end $$;
            alter function staging.ensure_partitions owner to current_user
        """.encode()
        )
    with pytest.raises(LoaderError if exit_code else TemporaryError) as caught:
        land(settings, [Message("a")])
    assert str(caught.value).startswith(said)
    assert getattr(caught.value, "exit_code", None) == exit_code


@pytest.mark.parametrize("errcode", ["22P02", "23502", "55000"])
def test_an_error_that_may_quote_a_row_is_told_by_its_code_alone(database: Database, settings: LoaderSettings, errcode: str) -> None:
    database.execute(f"""
        create function refuse() returns trigger language plpgsql as $$
        begin
            raise exception 'refused: %', new.body using errcode = '{errcode}';
        end $$;
        create trigger refuse before insert on staging.raw_logins for each row execute function refuse()
    """)
    with pytest.raises((LoaderError, TemporaryError)) as error:
        land(settings, [Message("a", "192.0.2.1")])
    assert f"SQLSTATE {errcode}" in str(error.value)
    assert ("192.0.2.1" in str(error.value)) == (errcode == "55000")
