"""A reveal gives back exactly what was sent: request, approve, open, read."""

import ipaddress
import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import errors

from tests.recovery.conftest import REVEAL, Masked, Message, login


def test_a_reveal_gives_every_spelling_that_was_sent_and_nothing_else(
    masked: Masked, sample: tuple[Message, ...], story: dict[str, Message]
) -> None:
    sent = {one.message_id: one for one in (*sample, *story.values())}
    rows = masked.rows("select message_id, masked_ip, masked_device_id, masked_network from marts.user_logins")
    spelled = {(ip, sent[message_id].event["ip"]) for message_id, ip, _, _ in rows}
    spelled |= {(device, sent[message_id].event["device_id"]) for message_id, _, device, _ in rows}
    assert len(spelled) > 300
    assert len({token for token, _ in spelled}) < len(spelled)

    assert masked.reveal(*{token for token, _ in spelled}) == spelled

    # the token of a network gives the network, and no address in it
    networks = {value for _, value in masked.reveal(*{row[3] for row in rows if row[3]})}
    assert all(ipaddress.ip_network(network).num_addresses > 1 for network in networks)
    assert len(networks) > 10


def test_the_four_commands_print_fifty_values_as_sent_and_each_step_is_on_record(masked: Masked) -> None:
    one = login("u-reveal", "2001:DB8:0:0::7", "device é\u202e\u001b[31m", days_ago=1)
    masked.land([one])
    masked.mask()
    tokens = [*masked.tokens(one)]
    tokens += [
        token for (token,) in masked.rows("select distinct masked_device_id from marts.user_logins limit 50") if token not in tokens
    ][:48]
    assert len(tokens) == 50

    reveal_id = masked.recovery("request", *tokens, "--purpose", "fraud", "--legal-reference", "case 1").strip()
    # who approves sees what is asked for
    assert json.loads(masked.recovery("pending"))["tokens"] == tokens
    assert masked.recovery("approve", reveal_id) == "approved\n"
    assert masked.recovery("open", reveal_id) == "opened\n"
    lines = [json.loads(line) for line in masked.recovery("read", reveal_id).splitlines()]

    assert {line["token"] for line in lines} == set(tokens)
    assert {("ip", "2001:DB8:0:0::7"), ("device_id", "device é\u202e\u001b[31m")} <= {
        (line["field"], line["plain_value"]) for line in lines
    }
    assert masked.rows("select act, actor from recovery.audit order by entry") == [
        ("reveal_requested", "pii_requester"),
        ("reveal_approved", "pii_approver"),
        ("reveal_opened", "pii_requester"),
        ("reveal_read", "pii_requester"),
    ]
    opened = masked.value("select details from recovery.audit where act = 'reveal_opened'")
    said = {"tokens": tokens, "requester": "pii_requester", "approver": "pii_approver", "purpose": "fraud", "legal_reference": "case 1"}
    assert {name: opened[name] for name in said} == said


def test_a_reading_waits_for_its_turn_in_the_record_and_is_not_used_up(masked: Masked) -> None:
    token = masked.value("select masked_device_id from marts.user_logins limit 1")
    reveal_id = masked.opened(token)
    with masked.connect(autocommit=False) as other, ThreadPoolExecutor() as people:
        other.execute("lock table recovery.audit in share row exclusive mode")
        reading = people.submit(masked.recovery, "read", reveal_id)
        # control: it has been held up, for longer than one attempt takes
        masked.wait_until(
            "select from pg_stat_activity where query like '%recovery.read_reveal%' and application_name = 'user-logins recovery' "
            "and clock_timestamp() - backend_start > interval '2 seconds'"
        )
        other.rollback()
        assert token in reading.result()


def test_a_reading_that_a_time_out_ends_is_not_used_up(masked: Masked, story: dict[str, Message]) -> None:
    """On a mart so large that a second is not enough; here it is the lock on the raw messages that lasts longer."""
    token = masked.tokens(story["old"])[1]
    read = REVEAL["read"].format(masked.opened(token)).encode()
    with masked.connect("pii_requester") as requester, masked.connect(autocommit=False) as holder:
        requester.execute("set statement_timeout = '1s'")
        holder.execute("lock table staging.raw_logins in access exclusive mode")
        with pytest.raises(errors.QueryCanceled):
            requester.execute(read)
        holder.rollback()
        assert requester.execute(read).fetchall() == [(token, "canary-device-old")]


def test_a_reading_searches_only_partitions_in_which_raw_messages_can_still_be(masked: Masked) -> None:
    """The history of user_logins outlives the raw messages by years, and is not gone through."""
    token = masked.value("select masked_ip from marts.user_logins where sent_at > now() - interval '2 days' limit 1")
    masked.execute("select staging.ensure_partition('marts.user_logins', '202001', '2020-01-01Z', '2020-02-01Z')")
    scans = (
        "select coalesce(seq_scan, 0) + coalesce(idx_scan, 0) from pg_stat_all_tables where relid = 'marts.user_logins_202001'::regclass"
    )
    before = masked.value(scans)
    assert masked.reveal(token)
    assert masked.value(scans) == before
    # control: a search of all counts a scan
    masked.rows("select count(*) from marts.user_logins where masked_ip = 'v1:'")
    assert masked.value(scans) > before


def test_an_unknown_token_reveals_nothing_and_is_not_counted_as_a_reading(masked: Masked) -> None:
    reveal_id = masked.opened(f"v1:{uuid.uuid4().hex}")
    for _ in range(2):
        assert masked.recovery("read", reveal_id) == ""
    assert masked.rows("select from recovery.audit where act = 'reveal_read'") == []
