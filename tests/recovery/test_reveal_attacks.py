"""Every way around a reveal's four steps is refused, all with the same words, code and context."""

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.recovery.conftest import Masked, Message

Connection = psycopg.Connection[Any]
TOKEN = f"v1:{'0' * 32}"


@pytest.fixture
def token(masked: Masked) -> str:
    found: str = masked.value("select masked_ip from analytics.shared_ips limit 1")
    return found


@pytest.fixture
def requester(masked: Masked) -> Iterator[Connection]:
    with masked.connect("pii_requester") as connection:
        yield connection


@pytest.fixture
def approver(masked: Masked) -> Iterator[Connection]:
    with masked.connect("pii_approver") as connection:
        yield connection


def request(connection: Connection, *tokens: str) -> uuid.UUID:
    row = connection.execute("select recovery.request_reveal(%s, 'fraud', 'case 1')", (list(tokens),)).fetchone()
    assert row is not None
    reveal_id: uuid.UUID = row[0]
    return reveal_id


def approve(connection: Connection, reveal_id: uuid.UUID) -> None:
    connection.execute("select recovery.approve_reveal(%s)", (reveal_id,))


def open_(connection: Connection, reveal_id: uuid.UUID) -> None:
    connection.execute("select recovery.open_reveal(%s)", (reveal_id,))


def read(connection: Connection, reveal_id: uuid.UUID) -> list[tuple[Any, ...]]:
    return connection.execute("select * from recovery.read_reveal(%s)", (reveal_id,)).fetchall()


def refused(step: Callable[..., Any], *arguments: Any) -> str:
    """The step is refused in the words that every refusal has; returns all that the server said but the function's name."""
    with pytest.raises(errors.InsufficientPrivilege) as caught:
        step(*arguments)
    said = caught.value.diag
    assert said.message_primary == "reveal refused"
    assert said.message_detail is None
    assert said.message_hint is None
    return f"{said.sqlstate} {said.message_primary} {said.context} {said.source_line}"


def expire_request(masked: Masked, reveal_id: uuid.UUID) -> None:
    with masked.connect() as admin:
        admin.execute("update recovery.reveals set expires_at = clock_timestamp() where reveal_id = %s", (reveal_id,))


def test_control_the_four_steps_in_order_give_the_value(requester: Connection, approver: Connection, token: str) -> None:
    reveal_id = request(requester, token)
    approve(approver, reveal_id)
    open_(requester, reveal_id)
    assert read(requester, reveal_id)


def test_reading_without_opening_is_refused(requester: Connection, approver: Connection, token: str) -> None:
    reveal_id = request(requester, token)
    approve(approver, reveal_id)
    refused(read, requester, reveal_id)


def test_opening_without_approval_is_refused(requester: Connection, token: str) -> None:
    refused(open_, requester, request(requester, token))


def test_opening_and_reading_in_one_transaction_is_refused_so_no_rollback_hides_it(
    masked: Masked, requester: Connection, approver: Connection, token: str
) -> None:
    reveal_id = request(requester, token)
    approve(approver, reveal_id)
    with requester.transaction():
        open_(requester, reveal_id)
        # a later transaction that has ended, so that the opening's is not the newest that there is
        assert masked.value("select pg_current_xact_id()")
        with requester.transaction():
            refused_in(requester, reveal_id)
    # control: the same reveal, once its opening has committed
    assert read(requester, reveal_id)


def refused_in(connection: Connection, reveal_id: uuid.UUID) -> None:
    """Reading is refused, and the transaction goes on."""
    connection.execute("savepoint before_reading")
    refused(read, connection, reveal_id)
    connection.execute("rollback to before_reading")


def test_an_opening_rolled_back_to_a_savepoint_opens_nothing(requester: Connection, approver: Connection, token: str) -> None:
    reveal_id = request(requester, token)
    approve(approver, reveal_id)
    with requester.transaction():
        requester.execute("savepoint before_opening")
        open_(requester, reveal_id)
        refused_in(requester, reveal_id)
        requester.execute("rollback to before_opening")
        refused_in(requester, reveal_id)
    refused(read, requester, reveal_id)


def test_a_rollback_after_reading_neither_hides_it_nor_gives_a_second_reading(
    masked: Masked, requester: Connection, approver: Connection, token: str
) -> None:
    reveal_id = request(requester, token)
    approve(approver, reveal_id)
    open_(requester, reveal_id)
    with requester.transaction(force_rollback=True):
        assert read(requester, reveal_id)

    assert masked.rows("select act from recovery.audit order by entry desc limit 1") == [("reveal_opened",)]
    refused(read, requester, reveal_id)


def test_a_savepoint_rolled_back_after_reading_gives_no_second_reading(requester: Connection, approver: Connection, token: str) -> None:
    reveal_id = request(requester, token)
    approve(approver, reveal_id)
    open_(requester, reveal_id)
    with requester.transaction():
        requester.execute("savepoint before_reading")
        assert read(requester, reveal_id)
        requester.execute("rollback to before_reading")
        refused_in(requester, reveal_id)


def test_a_second_reading_and_a_second_opening_are_refused(requester: Connection, approver: Connection, token: str) -> None:
    reveal_id = request(requester, token)
    approve(approver, reveal_id)
    open_(requester, reveal_id)
    refused(open_, requester, reveal_id)
    assert read(requester, reveal_id)
    refused(read, requester, reveal_id)
    refused(open_, requester, reveal_id)


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable", "read committed, read only"])
def test_reading_in_an_older_snapshot_or_read_only_is_refused(
    requester: Connection, approver: Connection, token: str, isolation: str
) -> None:
    reveal_id = request(requester, token)
    approve(approver, reveal_id)
    open_(requester, reveal_id)
    with requester.transaction():
        requester.execute(f"set transaction isolation level {isolation}".encode())
        refused_in(requester, reveal_id)
    assert read(requester, reveal_id)


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_every_step_before_the_reading_is_refused_in_an_older_snapshot_too(
    requester: Connection, approver: Connection, token: str, isolation: str
) -> None:
    requested, approved = request(requester, token), request(requester, token)
    approve(approver, approved)
    for connection in (requester, approver):
        connection.execute(f"set default_transaction_isolation = '{isolation}'".encode())
    refused(request, requester, token)
    refused(approve, approver, requested)
    refused(open_, requester, approved)
    # control: the same steps in a transaction that sees what is
    for connection in (requester, approver):
        connection.execute("reset default_transaction_isolation")
    approve(approver, requested)
    open_(requester, approved)


def test_after_an_hour_each_step_is_refused(masked: Masked, requester: Connection, approver: Connection, token: str) -> None:
    requested, approved, opened = (request(requester, token) for _ in range(3))
    approve(approver, approved)
    approve(approver, opened)
    open_(requester, opened)
    with masked.connect() as admin:
        row = admin.execute("select expires_at - requested_at from recovery.reveals where reveal_id = %s", (opened,)).fetchone()
        assert row is not None
        assert abs(row[0] - timedelta(hours=1)) < timedelta(seconds=1)
    for reveal_id in (requested, approved, opened):
        expire_request(masked, reveal_id)

    refused(approve, approver, requested)
    refused(open_, requester, approved)
    refused(read, requester, opened)


def test_an_hour_is_an_hour_in_a_transaction_that_began_before(
    masked: Masked, requester: Connection, approver: Connection, token: str
) -> None:
    reveal_id = request(requester, token)
    approve(approver, reveal_id)
    open_(requester, reveal_id)
    with requester.transaction():
        requester.execute("select now()")
        expire_request(masked, reveal_id)
        refused_in(requester, reveal_id)


def test_nobody_approves_their_own_request_whatever_roles_they_have(masked: Masked, token: str) -> None:
    person = f"person_{uuid.uuid4().hex}"
    with masked.connect() as admin:
        admin.execute(f"create role {person} login password 'made-up'; grant pii_requester, pii_approver to {person}".encode())
        try:
            with psycopg.connect(admin.info.dsn, user=person, password="made-up", autocommit=True) as connection:
                own = request(connection, token)
                refused(approve, connection, own)
                connection.execute("set role pii_approver")
                refused(approve, connection, own)
        finally:
            admin.execute(f"drop role {person}".encode())


def test_the_table_itself_refuses_an_approver_who_asked(masked: Masked, requester: Connection, token: str) -> None:
    reveal_id = request(requester, token)
    with masked.connect() as admin, pytest.raises(errors.CheckViolation):
        admin.execute("update recovery.reveals set approver = requester where reveal_id = %s", (reveal_id,))


def test_another_requesters_reveal_can_be_neither_opened_nor_read(
    masked: Masked, requester: Connection, approver: Connection, token: str
) -> None:
    person = f"person_{uuid.uuid4().hex}"
    approved, opened = request(requester, token), request(requester, token)
    approve(approver, approved)
    approve(approver, opened)
    open_(requester, opened)
    with masked.connect() as admin:
        admin.execute(f"create role {person} login password 'made-up'; grant pii_requester to {person}".encode())
        try:
            with psycopg.connect(admin.info.dsn, user=person, password="made-up", autocommit=True) as other:
                refused(open_, other, approved)
                refused(read, other, opened)
        finally:
            admin.execute(f"drop role {person}".encode())
    assert read(requester, opened)


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
    masked: Masked, requester: Connection, tokens: list[str] | None, purpose: str | None, legal_reference: str | None
) -> None:
    reveals_before = masked.value("select count(*) from recovery.reveals")
    refused(requester.execute, "select recovery.request_reveal(%s, %s, %s)", (tokens, purpose, legal_reference))
    assert masked.value("select count(*) from recovery.reveals") == reveals_before
    # control: fifty are allowed
    request(requester, *[TOKEN] * 50)


def test_a_reading_says_the_same_whatever_it_is_refused_for(
    masked: Masked, requester: Connection, approver: Connection, token: str
) -> None:
    requested, approved, used, expired, foreign = (request(requester, token) for _ in range(5))
    for reveal_id in (approved, used, expired, foreign):
        approve(approver, reveal_id)
    for reveal_id in (used, expired, foreign):
        open_(requester, reveal_id)
    assert read(requester, used)
    expire_request(masked, expired)
    with masked.connect() as admin:
        # from a backup of another server
        admin.execute("update recovery.reveals set opened_xid = '4611686018427388904' where reveal_id = %s", (foreign,))

    said = {refused(read, requester, one) for one in (requested, approved, used, expired, foreign, uuid.uuid4())}

    assert len(said) == 1


@pytest.mark.parametrize("role", ["analyst", "transformer", "loader", "pii_requester", "pii_approver", "privacy_officer"])
@pytest.mark.parametrize(
    "statement",
    [
        "select * from recovery.login_tokens",
        "select * from staging.personal_values",
        "select recovery.record('reveal_opened', '{}')",
        "select * from recovery.reveals",
        "update recovery.reveals set approver = 'somebody'",
        "select * from masking.keys",
        "select * from recovery.tombstones",
        "insert into recovery.audit select * from recovery.audit",
    ],
)
def test_what_lies_behind_the_steps_cannot_be_called_or_read_directly(masked_for_module: Masked, role: str, statement: str) -> None:
    with masked_for_module.connect(role) as connection, pytest.raises((errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction)):
        connection.execute(statement.encode())
    # control: as a superuser
    with masked_for_module.connect(autocommit=False) as connection:
        connection.execute(f"alter role {role} superuser".encode())
        connection.execute(f"set local session authorization {role}".encode())
        connection.execute("set local transaction_read_only = off")
        connection.execute(statement.encode())
        connection.rollback()


@pytest.mark.parametrize(
    ("role", "step"),
    [
        ("pii_approver", "request_reveal(array['v1:0'], 'fraud', 'case 1')"),
        ("pii_requester", f"approve_reveal('{uuid.UUID(int=0)}')"),
        ("pii_approver", f"open_reveal('{uuid.UUID(int=0)}')"),
        ("pii_approver", f"read_reveal('{uuid.UUID(int=0)}')"),
        ("privacy_officer", f"read_reveal('{uuid.UUID(int=0)}')"),
        ("pii_requester", "erase('{u}')"),
        ("pii_approver", "rotate()"),
        ("transformer", "erase('{u}')"),
        ("transformer", "expire_next()"),
    ],
)
def test_a_step_that_is_anothers_cannot_be_called(masked_for_module: Masked, role: str, step: str) -> None:
    with masked_for_module.connect(role) as connection, pytest.raises(errors.InsufficientPrivilege, match="permission denied for function"):
        connection.execute(f"select recovery.{step}".encode())
    # control: with the right to call it, it runs, whatever it then finds wrong
    with masked_for_module.connect(autocommit=False) as connection:
        connection.execute(f"grant execute on all functions in schema recovery to {role}".encode())
        connection.execute(f"set local session authorization {role}".encode())
        try:
            connection.execute(f"select recovery.{step}".encode())
        except psycopg.Error as refusal:
            if f"PL/pgSQL function recovery.{step.partition('(')[0]}(" not in (refusal.diag.context or ""):
                raise
        connection.rollback()


def test_a_mart_that_lies_about_a_token_reveals_nothing_of_another(
    masked: Masked, story: dict[str, Message], requester: Connection, approver: Connection
) -> None:
    victim = story["new shared"]
    with masked.connect() as admin:
        admin.execute("update marts.user_logins set masked_ip = %s where message_id = %s", (TOKEN, victim.message_id))
    reveal_id = request(requester, TOKEN)
    approve(approver, reveal_id)
    open_(requester, reveal_id)
    assert read(requester, reveal_id) == []
