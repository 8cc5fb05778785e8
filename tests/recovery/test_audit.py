"""The record of all acts: append-only, and whatever is done to it all the same is found."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import errors

from sandbox.postgres import Postgres
from tests.recovery.conftest import REVEAL, Masked, copy_of

ENTRIES = 8
DELETED = "delete from recovery.audit where entry = 5; update recovery.audit set entry = entry - 1"
SEAL = "seal = recovery.audit_seal(previous_seal, {}, recorded_at, actor, act, details)"


@pytest.fixture(scope="module")
def recorded(postgres_server: Postgres, passwords: Mapping[str, str], template: str) -> Iterator[Masked]:
    """A database with eight entries on record, which the tests leave as they found it."""
    for made in copy_of(postgres_server, passwords, template):
        for days in range(20, 20 + ENTRIES):
            made.execute(f"select recovery.set_retention({days})", role="privacy_officer")
        yield made


def test_an_untouched_record_holds_and_reaches_its_anchor(unmasked: Masked) -> None:
    assert (unmasked.recovery("verify-audit"), unmasked.recovery("audit-head")) == ("0 entries hold\n", "")
    unmasked.recovery("retention", "29")
    anchor = unmasked.recovery("audit-head").strip()
    unmasked.recovery("retention", "30")
    # an anchor of earlier still holds when more was recorded since
    assert unmasked.recovery("verify-audit", anchor) == "2 entries hold and reach the anchor\n"


@pytest.mark.parametrize(
    ("statement", "first_broken"),
    [
        ("update recovery.audit set details = '{\"raw_days\": 99}' where entry = 3", 3),
        ("update recovery.audit set actor = 'somebody' where entry = 1", 1),
        ("update recovery.audit set act = 'expired' where entry = 8", 8),
        ("update recovery.audit set recorded_at = recorded_at + interval '1 microsecond' where entry = 4", 4),
        ("update recovery.audit set seal = sha256('') where entry = 8", 8),
        ("delete from recovery.audit where entry = 1", 1),
        ("delete from recovery.audit where entry = 5", 5),
        (f"{DELETED} where entry > 5", 5),
        # each entry sealed anew by itself: the links between them tell
        (f"{DELETED}, {SEAL.format('entry - 1')} where entry > 5", 5),
        # the chain alone cannot know what is done to its end; the anchor can
        ("delete from recovery.audit where entry = 8", None),
        (
            "update recovery.audit set actor = 'x' where entry = 8; update recovery.audit set " + SEAL.format("entry") + " where entry = 8",
            None,
        ),
    ],
)
def test_a_changed_or_deleted_entry_is_named(recorded: Masked, statement: str, first_broken: int | None) -> None:
    """What only the server's administrator can do: take the guard away and change the record."""
    verify = "select first_broken from recovery.verify_audit({})"
    with_anchor = verify.format("'{}', '{}'".format(*recorded.rows("select * from recovery.audit_head()")[0]))
    with recorded.connect(autocommit=False) as admin:
        assert admin.execute(with_anchor.encode()).fetchone() == (None,)
        admin.execute("alter table recovery.audit disable trigger refuse_change")
        admin.execute(statement.encode())
        assert admin.execute(verify.format("").encode()).fetchone() == (first_broken,)
        assert admin.execute(with_anchor.encode()).fetchone() == (first_broken or ENTRIES,)
        admin.rollback()


@pytest.mark.parametrize("statement", ["update recovery.audit set actor = 'x'", "delete from recovery.audit", "truncate recovery.audit"])
def test_neither_the_owner_nor_a_replication_session_can_change_the_record(recorded: Masked, statement: str) -> None:
    for setting in ("set role pipeline_owner", "set session_replication_role = replica"):
        with recorded.connect() as admin:
            admin.execute(setting.encode())
            with pytest.raises(errors.InsufficientPrivilege, match="append-only"):
                admin.execute(statement.encode())
    assert recorded.value("select count(*) from recovery.audit") == ENTRIES


def test_acts_at_the_same_time_make_one_chain(unmasked: Masked) -> None:
    requests = [REVEAL["request"].format([f"v1:{'0' * 32}"])] * 80
    with ThreadPoolExecutor(8) as people:
        list(people.map(lambda request: unmasked.execute(request, role="pii_requester"), requests))

    assert unmasked.recovery("verify-audit") == "80 entries hold\n"
