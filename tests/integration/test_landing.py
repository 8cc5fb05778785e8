"""One batch into staging."""

import asyncio
import os
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from loader import landing
from loader.errors import LoaderError, TemporaryError
from loader.landing import Landing, storable
from loader.settings import LoaderSettings
from loader.sqs import Message
from tests.support import Database

SENT_MS = 1_790_000_000_123


@pytest.fixture
def settings(database: Database) -> LoaderSettings:
    return LoaderSettings(
        sqs_queue_url="http://127.0.0.1:1/q",
        pghost="127.0.0.1",
        pguser="loader",
        pgpassword=None,
        loader_password=SecretStr(database.passwords["loader"]),
    )


@pytest.fixture(autouse=True)
def _libpq(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(database.server.port))
    monkeypatch.setenv("PGDATABASE", database.name)


def land(settings: LoaderSettings, *batches: Sequence[Message]) -> list[int]:
    """Land *batches* one after the other, and return how many rows of each were new."""

    async def work() -> list[int]:
        opened = Landing(settings)
        try:
            return [await opened.land(batch) for batch in batches]
        finally:
            await opened.close()

    return asyncio.run(work())


def message(message_id: str, body: str = "{}", sent_ms: int = SENT_MS, attributes: str = "{}") -> Message:
    return Message(message_id, sent_ms, body, attributes, "handle")


def test_the_time_of_sending_is_kept_to_the_millisecond(database: Database, settings: LoaderSettings) -> None:
    land(settings, [message("a")])
    assert database.value("select (extract(epoch from sent_at) * 1000)::bigint from staging.raw_logins") == SENT_MS


def test_what_landed_before_is_counted_and_not_landed_again(database: Database, settings: LoaderSettings) -> None:
    assert land(settings, [message("a"), message("b"), message("a")], [message("b"), message("c")]) == [2, 1]
    assert database.rows("select message_id from staging.raw_logins order by 1") == [("a",), ("b",), ("c",)]


def test_the_first_landing_of_a_message_wins(database: Database, settings: LoaderSettings) -> None:
    land(settings, [message("a", "first")], [message("a", "second")])
    assert database.rows("select body from staging.raw_logins") == [("first",)]


def test_a_batch_of_many_days_lands_whole(database: Database, settings: LoaderSettings) -> None:
    days = [message(f"m{day}", sent_ms=SENT_MS + day * 86_400_000) for day in range(40)]
    assert land(settings, days) == [40]
    assert database.value("select count(distinct tableoid) from staging.raw_logins") == 40


def test_rows_are_inserted_in_the_order_of_their_keys(database: Database, settings: LoaderSettings) -> None:
    """So two loaders with the same messages wait for each other, and never in a circle."""
    land(settings, [message("warm-up")], [message(message_id) for message_id in ("c", "a", "d", "b")])
    assert database.rows("select message_id from staging.raw_logins order by ctid offset 1") == [("a",), ("b",), ("c",), ("d",)]


@given(st.text(st.characters(exclude_categories=[])))
def test_every_body_can_be_stored_and_recovered(body: str) -> None:
    stored = storable(body)
    stored.encode()
    assert "\0" not in stored
    if stored != body:
        assert bytes.fromhex(stored.removeprefix("\\x")).decode(errors="surrogatepass") == body


@pytest.mark.parametrize("body", ["\0", "a\0b", "\ud800", '{"ip": "\udfff"}'])
def test_a_body_that_text_cannot_hold_lands_as_hex_of_its_utf8(database: Database, settings: LoaderSettings, body: str) -> None:
    assert land(settings, [message("a", body)]) == [1]
    expected = "\\x" + body.encode(errors="surrogatepass").hex()
    assert database.value("select body from staging.raw_logins") == expected
    assert not database.value("select pg_input_is_valid(body, 'jsonb') from staging.raw_logins")


def replace_ensure_partitions(database: Database, body: str) -> None:
    """Have *body* run where partitions are to be made; `staging.really_ensure_partitions` makes them."""
    with database.connect() as connection:
        connection.execute("alter function staging.ensure_partitions(date[]) rename to really_ensure_partitions")
        connection.execute("create sequence staging.tries")
        connection.execute(
            "create function staging.ensure_partitions(dates date[]) returns void language plpgsql security definer as "
            f"$$ begin {body} end $$".encode()
        )
        connection.execute("grant execute on function staging.ensure_partitions(date[]) to loader")


@pytest.mark.parametrize("failure", ["raise sqlstate '53100'", "perform pg_terminate_backend(pg_backend_pid())"])
def test_a_failure_that_passes_while_a_partition_is_made_may_be_tried_again(
    database: Database, settings: LoaderSettings, failure: str
) -> None:
    # a sequence, for it counts on when the transaction is rolled back
    replace_ensure_partitions(
        database, f"if nextval('staging.tries') <= 2 then {failure}; end if; perform staging.really_ensure_partitions(dates);"
    )

    async def work() -> list[object]:
        opened = Landing(settings)
        try:
            return await asyncio.gather(*[opened.land([message("a")]) for _ in range(1)], return_exceptions=True)
        finally:
            await opened.close()

    results = [asyncio.run(work())[0] for _ in range(3)]
    assert [type(result) for result in results] == [TemporaryError, TemporaryError, int]
    assert results[2] == 1


def test_no_right_to_make_partitions_is_a_refusal(database: Database, settings: LoaderSettings) -> None:
    with database.connect() as connection:
        connection.execute("revoke execute on function staging.ensure_partitions(date[]) from loader")
    with pytest.raises(LoaderError, match="run python -m loader migrate") as caught:
        land(settings, [message("a")])
    assert caught.value.exit_code == os.EX_NOPERM


def test_an_error_while_a_partition_is_made_is_told_in_one_line(database: Database, settings: LoaderSettings) -> None:
    replace_ensure_partitions(database, "raise sqlstate '42P07' using message = 'it is there';")
    with pytest.raises(LoaderError, match=r"^PostgreSQL cannot land a batch: SQLSTATE 42P07: it is there$"):
        land(settings, [message("a")])


def test_a_day_that_is_refused_although_its_partition_was_made_calls_for_a_migration(database: Database, settings: LoaderSettings) -> None:
    replace_ensure_partitions(database, "null;")
    with pytest.raises(LoaderError, match="takes no row of this day; run python -m loader migrate") as caught:
        land(settings, [message("a")])
    assert caught.value.exit_code == os.EX_CONFIG


def test_rows_are_copied_in_binary_so_that_no_error_quotes_one() -> None:
    assert "format binary" in landing.COPY
