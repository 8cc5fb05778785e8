"""Every way around a reveal's four steps is refused, all with the same words, code and context."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.recovery.conftest import REVEAL, Masked, Message

Connections = dict[str, psycopg.Connection[Any]]
TOKEN = f"v1:{'0' * 32}"
# what is done between the steps, by the requester unless somebody is named
OTHERWISE = {
    "savepoint": "savepoint one",
    "back": "rollback to one",
    "repeatable": "set default_transaction_isolation = 'repeatable read'",
    "serializable": "set default_transaction_isolation = 'serializable'",
    "unwritable": "set default_transaction_read_only = on",
    "reset": "reset all",
    "become": "set role pii_approver",
    "elsewhere": "select pg_current_xact_id()",
    "hour": "update recovery.reveals set expires_at = clock_timestamp() where reveal_id = '{}'",
    "restored": "update recovery.reveals set opened_xid = '4611686018427388904' where reveal_id = '{}'",
}
SNAPSHOT = "{0} request! reset request approver.{0} approve! approver.reset approver.approve {0} open! reset open {0} read! reset read"
# Each step is its taker's, "person.open" that of a third person who has both roles; a step with ! is refused, another succeeds.
ATTACKS = {
    "none (control)": "request approve open read",
    "reading without opening": "request approve read!",
    "opening without approval": "request open!",
    # so no ROLLBACK hides it; "elsewhere" a later transaction ends, so that the opening's is not the newest that there is
    "opening and reading in one transaction": "request approve begin open admin.elsewhere read! commit read",
    "an opening that is taken back": "request approve begin savepoint open read! back read! commit read!",
    "reading again after a rollback": "request approve open begin read rollback read!",
    "reading again after a savepoint": "request approve open begin savepoint read back read! commit read!",
    "opening and reading again": "request approve open open! read read! open!",
    "each step in an older snapshot": SNAPSHOT.format("repeatable"),
    "each step in a serializable one": SNAPSHOT.format("serializable"),
    "reading without writing": "request approve open unwritable read! reset read",
    "approving after an hour": "request admin.hour approve!",
    "opening after an hour": "request approve admin.hour open!",
    "reading after an hour": "request approve open admin.hour read!",
    "reading after an hour in a transaction of before": "request approve open begin elsewhere admin.hour read!",
    "approving one's own request": "person.request person.approve! person.become person.approve!",
    "opening and reading another's": "request approve person.open! open person.read! read",
    "a reveal of another server's backup": "request approve open admin.restored read!",
}


@pytest.fixture
def connections(masked_for_module: Masked) -> Iterator[Connections]:
    """Who takes which step."""
    masked, name = masked_for_module, f"person_{uuid.uuid4().hex}"
    with masked.connect() as admin, masked.connect("pii_requester") as requester, masked.connect("pii_approver") as approver:
        admin.execute(f"create role {name} login password 'made-up'; grant pii_requester, pii_approver to {name}".encode())
        with psycopg.connect(admin.info.dsn, user=name, password="made-up", autocommit=True) as person:
            yield {"admin": admin, "requester": requester, "approver": approver, "person": person}
        admin.execute(f"drop role {name}".encode())


def refusal(connection: psycopg.Connection[Any], statement: str) -> list[str | None]:
    """All that the server says when it refuses *statement*."""
    with pytest.raises(errors.InsufficientPrivilege) as caught, connection.transaction():
        connection.execute(statement.encode())
    said = caught.value.diag
    return [said.message_primary, said.message_detail, said.message_hint, said.context, said.source_line]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_value_is_given_once_on_record_and_to_whom_it_was_allowed(
    masked_for_module: Masked, connections: Connections, attack: str
) -> None:
    tokens = [masked_for_module.value("select masked_ip from analytics.shared_ips limit 1")]
    reveal_id, values = "", []
    for one in ATTACKS[attack].split():
        who, _, step = one.rstrip("!").rpartition(".")
        connection = connections[who or ("approver" if step == "approve" else "requester")]
        statement = (REVEAL | OTHERWISE).get(step, step).format(tokens if step == "request" else reveal_id)
        if one.endswith("!"):
            # in the words that are said of what does not exist
            nothing = REVEAL[step].format("[]" if step == "request" else uuid.uuid4())
            assert refusal(connection, statement) == refusal(connection, nothing)
            assert refusal(connection, statement)[:3] == ["reveal refused", None, None]
            continue
        done = connection.execute(statement.encode())
        if step == "request":
            reveal_id = done.fetchall()[0][0]
        elif step == "read":
            values += done.fetchall()

    record = masked_for_module.rows(f"select act from recovery.audit where details ->> 'reveal_id' = '{reveal_id}'")
    assert bool(values) == ("read" in ATTACKS[attack].split())
    assert not values or ("reveal_opened",) in record


def test_who_is_a_member_of_a_group_role_acts_in_their_own_name(masked_for_module: Masked, connections: Connections) -> None:
    person = connections["person"]
    person.execute("set role pii_requester")
    person.execute(REVEAL["request"].format([TOKEN]).encode())
    assert masked_for_module.value("select actor from recovery.audit order by entry desc limit 1") == person.info.user


@pytest.mark.parametrize(
    ("tokens", "purpose", "legal_reference"),
    [
        ([TOKEN] * 51, "fraud", "case 1"),
        ([], "fraud", "case 1"),
        (None, "fraud", "case 1"),
        ([TOKEN, None], "fraud", "case 1"),
        (["192.0.2.1"], "fraud", "case 1"),
        ([TOKEN], "curiosity", "case 1"),
        ([TOKEN], None, "case 1"),
        ([TOKEN], "fraud", "  "),
        ([TOKEN], "fraud", None),
        ([TOKEN], "fraud", "x" * 201),
    ],
)
def test_a_request_that_asks_too_much_or_says_too_little_is_refused(
    masked_for_module: Masked, tokens: list[str | None] | None, purpose: str | None, legal_reference: str | None
) -> None:
    reveals = "select count(*) from recovery.reveals where expires_at - requested_at between '00:59:59' and '01:00:01'"
    before = masked_for_module.value(reveals)
    with masked_for_module.connect("pii_requester") as requester:
        with pytest.raises(errors.InsufficientPrivilege, match=r"^reveal refused\n"):
            requester.execute("select recovery.request_reveal(%s, %s, %s)", (tokens, purpose, legal_reference))
        assert masked_for_module.value(reveals) == before
        # control: fifty are allowed, for an hour
        requester.execute(REVEAL["request"].format([TOKEN] * 50).encode())
    assert masked_for_module.value(reveals) == before + 1


def test_the_table_itself_refuses_an_approver_who_asked(masked_for_module: Masked) -> None:
    masked_for_module.opened(TOKEN)
    with pytest.raises(errors.CheckViolation):
        masked_for_module.execute("update recovery.reveals set approver = requester")


def test_a_mart_that_lies_about_a_token_reveals_nothing_of_another(masked: Masked, story: dict[str, Message]) -> None:
    victim = story["new shared"]
    masked.execute(f"update marts.user_logins set masked_ip = '{TOKEN}' where message_id = '{victim.message_id}'")
    assert masked.reveal(TOKEN) == set()
