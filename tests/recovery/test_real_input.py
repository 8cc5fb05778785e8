"""The four acts on the real events: half of them came through the queue and the loader, half are past retention."""

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from loader.migrate import migrate
from sandbox import emulator
from sandbox.emulator import Emulator
from sandbox.postgres import Postgres
from tests import support
from tests.recovery.conftest import Masked, Message, accepted, copy_of, login, message, reveal_all
from tests.support import DATABASE_FILES, REAL_EVENTS, Database, Queue, create_copy

pytestmark = pytest.mark.skipif(not REAL_EVENTS.exists(), reason="the real events are not beside this clone")

TEMPLATE = "real_events"
TOKENS = "select message_id, masked_ip, masked_device_id, masked_network from marts.user_logins"
BOOKS = "select sum(landed), sum(masked), sum(rejected), sum(erased), sum(waiting + lost + in_both) from analytics.daily_reconciliation"


@pytest.fixture(scope="module")
def real_template(
    postgres_server: Postgres, sqs: Emulator, passwords: Mapping[str, str], template: str, dbt_target: Path
) -> tuple[Message, ...]:
    """The messages of a database, made for the tests to copy, in which the real events were landed and masked."""
    bodies = [line for line in REAL_EVENTS.read_text().splitlines() if line]
    queued, late = bodies[::2], bodies[1::2]
    create_copy(postgres_server, TEMPLATE, template)
    made = Masked(Database(postgres_server, TEMPLATE, passwords), dbt_target)
    with made.connect() as connection:
        migrate(connection, DATABASE_FILES, {})

    queue = Queue(sqs, emulator.create_queue(sqs, "real-events"))
    queue.send(*queued)
    drained = support.run(["python", "-m", "loader", "drain"], support.environment(made.database, queue))
    assert drained.returncode == 0, drained.stderr
    made.land([message(body, days_ago=40) for body in late])
    made.dbt("run")
    landed = tuple(Message(*row) for row in made.rows("select message_id, sent_at, body from staging.raw_logins"))
    assert sorted(one.body for one in landed) == sorted(bodies)
    return landed


@pytest.fixture
def real(postgres_server: Postgres, passwords: Mapping[str, str], real_template: tuple[Message, ...], dbt_target: Path) -> Iterator[Masked]:
    """A copy of that database for one test."""
    assert real_template
    yield from copy_of(postgres_server, passwords, TEMPLATE, dbt_target)


def test_every_ip_and_every_device_id_comes_back_exactly_as_sent(real: Masked, real_template: tuple[Message, ...]) -> None:
    logins = accepted(real, real_template)
    assert len(logins) == 99
    sent = {
        (token, value) for ip, device, one in logins.values() for token, value in ((ip, one.event["ip"]), (device, one.event["device_id"]))
    }
    assert len(sent) == 198

    assert reveal_all(real, sorted({token for token, _ in sent})) == sent


def test_a_list_of_fifty_comes_back_by_command(real: Masked, real_template: tuple[Message, ...]) -> None:
    sent = {device: one.event["device_id"] for _, device, one in list(accepted(real, real_template).values())[:50]}
    reveal_id = real.recovery("request", *sent, "--purpose", "fraud", "--legal-reference", "case 1").strip()
    real.recovery("approve", reveal_id)
    real.recovery("open", reveal_id)
    lines = [json.loads(line) for line in real.recovery("read", reveal_id).splitlines()]
    assert {line["token"]: line["plain_value"] for line in lines} == sent
    assert len(sent) == 50


def test_an_erased_persons_message_again_and_a_new_one_stay_away_and_the_books_balance(
    real: Masked, real_template: tuple[Message, ...]
) -> None:
    sent = next(one for one in real_template if one.event.get("user_id"))
    user_id = sent.event["user_id"]
    of_user = [one for one in real_template if one.event.get("user_id") == user_id]
    assert real.rows(BOOKS) == [(100, 99, 1, 0, 0)]

    assert f"{len(of_user)} logins" in real.recovery("erase", stdin=f"{user_id}\n")
    new = login(user_id, "2001:db8:ffff::1", "device-new")
    real.land([*of_user, new])
    # control: they did land
    assert real.value("select count(*) from staging.raw_logins") == 101
    real.mask()

    assert real.value("select count(*) from staging.raw_logins") == 100 - len(of_user)
    erased = len(of_user) + 1
    assert real.rows(BOOKS) == [(101, 99 - len(of_user), 1, erased, 0)]
    ids = {message_id for message_id, *_ in real.rows(TOKENS)}
    assert ids.isdisjoint({new.message_id, *(one.message_id for one in of_user)})


def test_expired_values_are_in_no_data_file_and_the_others_come_back(real: Masked, real_template: tuple[Message, ...]) -> None:
    # a canary among them, for a value of the events might occur in a file by chance
    canary = login(f"user-{uuid.uuid4()}", "2001:db8:ffff::ca", f"device-{uuid.uuid4()}", days_ago=40)
    real.land([canary])
    real.mask()
    logins = accepted(real, (*real_template, canary))
    assert len(logins) == 100
    with real.connect() as admin:
        admin.execute("vacuum analyze")
    # control: it was there
    assert real.files_with(canary.event["device_id"])

    assert real.recovery("expire") == f"expired: {canary.sent_at:%Y-%m-%d}\n1 days expired\n"

    assert real.files_with(canary.event["device_id"]) == set()
    still_there = {
        (token, value)
        for ip, device, one in logins.values()
        if one.partition != canary.partition
        for token, value in ((ip, one.event["ip"]), (device, one.event["device_id"]))
    }
    assert reveal_all(real, [token for ip, device, _ in logins.values() for token in (ip, device)]) == still_there
    assert real.value("select count(*) from marts.user_logins") == 100


def test_all_tokens_rotate_one_to_one_and_reveal_what_was_sent(real: Masked, real_template: tuple[Message, ...]) -> None:
    before = {message_id: tokens for message_id, *tokens in real.rows(TOKENS)}
    real.recovery("rotate")
    after = {message_id: tokens for message_id, *tokens in real.rows(TOKENS)}

    assert before.keys() == after.keys()
    pairs = {(old, new) for one in before for old, new in zip(before[one], after[one], strict=True) if old is not None}
    assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs}) > 198
    assert all(old.startswith("v1:") and new.startswith("v2:") for old, new in pairs)
    logins = accepted(real, real_template)
    assert reveal_all(real, [device for _, device, _ in logins.values()]) == {
        (device, one.event["device_id"]) for _, device, one in logins.values()
    }
