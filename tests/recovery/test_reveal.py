"""A reveal gives back exactly what was sent: request, approve, open, read."""

import json
import uuid
from collections import defaultdict

import pytest

from tests.recovery.conftest import Masked, Message, login, message
from tests.support import REAL_EVENTS

STEPS = ("--purpose", "fraud", "--legal-reference", "case 1")


def reveal(masked: Masked, tokens: list[str]) -> list[dict[str, str]]:
    """All four steps by command, each by the person whose it is."""
    reveal_id = masked.recovery("request", *tokens, *STEPS).strip()
    assert masked.recovery("approve", reveal_id) == "approved\n"
    assert masked.recovery("open", reveal_id) == "opened\n"
    return [json.loads(line) for line in masked.recovery("read", reveal_id).splitlines()]


def reveal_all(masked: Masked, tokens: list[str]) -> set[tuple[str, str]]:
    """All four steps in SQL, for fifty tokens at a time: token and value."""
    found: set[tuple[str, str]] = set()
    with masked.connect("pii_requester") as requester, masked.connect("pii_approver") as approver:
        for start in range(0, len(tokens), 50):
            wanted = tokens[start : start + 50]
            row = requester.execute("select recovery.request_reveal(%s, 'fraud', 'case 1')", (wanted,)).fetchone()
            assert row is not None
            approver.execute("select recovery.approve_reveal(%s)", row)
            requester.execute("select recovery.open_reveal(%s)", row)
            rows = requester.execute("select token, plain_value from recovery.read_reveal(%s)", row).fetchall()
            found.update((token, value) for token, value in rows)
    return found


def accepted(masked: Masked, messages: tuple[Message, ...]) -> dict[str, tuple[str, str, Message]]:
    """Masked ip and device id of each accepted message, by its id."""
    sent = {one.message_id: one for one in messages}
    rows = masked.rows("select message_id, masked_ip, masked_device_id from marts.user_logins")
    return {message_id: (ip, device, sent[message_id]) for message_id, ip, device in rows}


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


def test_an_unknown_token_reveals_nothing(masked: Masked) -> None:
    assert reveal(masked, [f"v1:{uuid.uuid4().hex}"]) == []


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


@pytest.mark.skipif(not REAL_EVENTS.exists(), reason="the real events are not beside this clone")
def test_of_the_real_events_every_ip_and_device_id_comes_back(unmasked: Masked) -> None:
    messages = tuple(message(line) for line in REAL_EVENTS.read_text().splitlines() if line)
    unmasked.land(messages)
    unmasked.mask()
    logins = accepted(unmasked, messages)
    assert len(logins) == 99

    tokens = [token for ip, device, _ in logins.values() for token in (ip, device)]
    assert reveal_all(unmasked, tokens) == {
        (token, value)
        for ip, device, sent in logins.values()
        for token, value in ((ip, sent.event["ip"]), (device, sent.event["device_id"]))
    }
