"""A reveal gives back exactly what was sent: request, approve, open, read."""

import ipaddress
import json
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import errors

from tests.recovery.conftest import Masked, Message, accepted, login, reveal_all, wait_until
from tests.support import run

STEPS = ("--purpose", "fraud", "--legal-reference", "case 1")


def reveal(masked: Masked, tokens: list[str]) -> list[dict[str, str]]:
    """All four steps by command, each by the person whose it is."""
    reveal_id = masked.recovery("request", *tokens, *STEPS).strip()
    assert masked.recovery("approve", reveal_id) == "approved\n"
    assert masked.recovery("open", reveal_id) == "opened\n"
    return [json.loads(line) for line in masked.recovery("read", reveal_id).splitlines()]


def test_a_reveal_gives_every_spelling_that_was_sent_and_nothing_else(
    masked: Masked, sample: tuple[Message, ...], story: dict[str, Message]
) -> None:
    spellings: dict[str, set[str]] = defaultdict(set)
    for ip_token, device_token, sent in accepted(masked, (*sample, *story.values())).values():
        spellings[ip_token].add(sent.event["ip"])
        spellings[device_token].add(sent.event["device_id"])
    assert len(spellings) > 300

    found: dict[str, set[str]] = defaultdict(set)
    for token, value in reveal_all(masked, list(spellings)):
        found[token].add(value)

    assert found == spellings


def test_the_token_of_a_network_gives_the_network_and_no_address_in_it(masked: Masked) -> None:
    token = masked.value("select masked_network from marts.user_logins where masked_network is not null limit 1")

    (found,) = {value for _, value in reveal_all(masked, [token])}

    assert ipaddress.ip_network(found).num_addresses > 1


def test_the_four_commands_print_the_value_as_sent(masked: Masked) -> None:
    one = login("u-reveal", "2001:DB8:0:0::7", "device é\u202e\u001b[31m", days_ago=1)
    masked.land([one])
    masked.mask()
    ip_token, device_token = masked.tokens(one)

    lines = reveal(masked, [ip_token, device_token])

    assert {(line["token"], line["field"], line["plain_value"]) for line in lines} >= {
        (ip_token, "ip", "2001:DB8:0:0::7"),
        (device_token, "device_id", "device é\u202e\u001b[31m"),
    }


def open_reveal(masked: Masked, token: str) -> str:
    """A reveal of *token* that was asked for, allowed and opened."""
    reveal_id = masked.recovery("request", token, *STEPS).strip()
    masked.recovery("approve", reveal_id)
    masked.recovery("open", reveal_id)
    return reveal_id


def test_a_reading_waits_for_its_turn_in_the_record_and_is_not_used_up(masked: Masked) -> None:
    token = masked.value("select masked_device_id from marts.user_logins limit 1")
    reveal_id = open_reveal(masked, token)
    with masked.connect(autocommit=False) as other, ThreadPoolExecutor() as people:
        other.execute("lock table recovery.audit in share row exclusive mode")
        reading = people.submit(masked.recovery, "read", reveal_id)
        # control: it has been held up, for longer than one attempt takes
        wait_until(
            masked,
            "select from pg_stat_activity where query like '%recovery.read_reveal%' and application_name = 'user-logins recovery' "
            "and clock_timestamp() - backend_start > interval '2 seconds'",
        )
        other.rollback()
        assert token in reading.result()


def test_a_reading_that_a_time_out_ends_is_not_used_up(masked: Masked) -> None:
    """On a mart so large that a second is not enough; here it is the lock on the raw messages that lasts longer."""
    token = masked.value("select masked_device_id from marts.user_logins where user_id = 'u-old'")
    reveal_id = open_reveal(masked, token)
    with masked.connect("pii_requester") as requester:
        requester.execute("set statement_timeout = '1s'")
        with masked.connect(autocommit=False) as holder:
            holder.execute("lock table staging.raw_logins in access exclusive mode")
            with pytest.raises(errors.QueryCanceled):
                requester.execute("select * from recovery.read_reveal(%s)", (reveal_id,))
            holder.rollback()
        rows = requester.execute("select token, plain_value from recovery.read_reveal(%s)", (reveal_id,)).fetchall()
    assert rows == [(token, "canary-device-old")]


def test_a_reading_searches_only_partitions_in_which_raw_messages_can_still_be(masked: Masked) -> None:
    """The history of user_logins outlives the raw messages by years, and is not gone through."""
    token = masked.value("select masked_ip from marts.user_logins where sent_at > now() - interval '2 days' limit 1")
    with masked.connect() as admin:
        admin.execute("select staging.ensure_partition('marts.user_logins', '202001', '2020-01-01Z', '2020-02-01Z')")
    reveal_id = open_reveal(masked, token)
    scans = (
        "select coalesce(seq_scan, 0) + coalesce(idx_scan, 0) from pg_stat_all_tables where relid = 'marts.user_logins_202001'::regclass"
    )
    with masked.connect("pii_requester") as requester:
        before = masked.value(scans)
        assert requester.execute("select token from recovery.read_reveal(%s)", (reveal_id,)).fetchall()
    assert masked.value(scans) == before
    # control: a search of all counts a scan
    masked.rows("select count(*) from marts.user_logins where masked_ip = 'v1:'")
    assert masked.value(scans) > before


def test_an_unknown_token_reveals_nothing_and_is_not_counted_as_a_reading(masked: Masked) -> None:
    reveal_id = open_reveal(masked, f"v1:{uuid.uuid4().hex}")
    for _ in range(2):
        done = run(["python", "-m", "recovery", "read", reveal_id], masked.environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert masked.rows("select from recovery.audit where act = 'reveal_read'") == []


def test_who_approves_sees_the_tokens_that_are_asked_for(masked: Masked) -> None:
    tokens = [token for (token,) in masked.rows("select distinct masked_ip from marts.user_logins limit 3")]
    masked.recovery("request", *tokens, *STEPS)
    (line,) = masked.recovery("pending").splitlines()
    assert json.loads(line)["tokens"] == tokens


def test_each_step_is_on_record_with_who_took_it(masked: Masked) -> None:
    token = masked.value("select masked_ip from marts.user_logins limit 1")
    reveal(masked, [token])

    assert masked.rows("select act, actor from recovery.audit order by entry") == [
        ("reveal_requested", "pii_requester"),
        ("reveal_approved", "pii_approver"),
        ("reveal_opened", "pii_requester"),
        ("reveal_read", "pii_requester"),
    ]
    opened = masked.value("select details from recovery.audit where act = 'reveal_opened'")
    assert opened["tokens"] == [token]
    assert (opened["requester"], opened["approver"], opened["purpose"]) == ("pii_requester", "pii_approver", "fraud")


def test_a_person_who_is_member_of_the_group_role_acts_in_their_own_name(masked: Masked) -> None:
    person = f"person_{uuid.uuid4().hex}"
    with masked.connect() as admin:
        admin.execute(f"create role {person} login password 'made-up'; grant pii_requester to {person}".encode())
        try:
            token = masked.value("select masked_ip from marts.user_logins limit 1")
            masked.recovery("request", token, *STEPS, PGUSER=person, PGPASSWORD="made-up")
            assert masked.value("select actor from recovery.audit") == person
        finally:
            admin.execute(f"drop role {person}".encode())
