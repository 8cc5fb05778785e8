"""The record of all acts: append-only, and whatever is done to it all the same is found."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import errors

from tests.recovery.conftest import PII_ROLES, Masked, login
from tests.support import run

ENTRIES = 8


@pytest.fixture
def recorded(unmasked: Masked) -> Masked:
    """A database with eight entries on record."""
    with unmasked.connect("privacy_officer") as officer:
        for days in range(20, 20 + ENTRIES):
            officer.execute("select recovery.set_retention(%s)", (days,))
    return unmasked


def broken(masked: Masked, anchor: str = "null, null") -> int | None:
    found: int | None = masked.value(f"select first_broken from recovery.verify_audit({anchor})", "privacy_officer")
    return found


def tamper(masked: Masked, statement: str) -> None:
    """Do what only the server's administrator can: take the guard away, change the record, put the guard back."""
    with masked.connect() as admin:
        admin.execute("alter table recovery.audit disable trigger refuse_change")
        admin.execute(statement.encode())
        admin.execute("alter table recovery.audit enable always trigger refuse_change")


def test_an_untouched_record_holds_and_reaches_its_anchor(recorded: Masked) -> None:
    anchor = recorded.recovery("audit-head").strip()
    assert recorded.recovery("verify-audit") == "8 entries hold\n"
    with recorded.connect("privacy_officer") as officer:
        officer.execute("select recovery.set_retention(30)")
    # an anchor of earlier still holds when more was recorded since
    assert recorded.recovery("verify-audit", anchor) == "9 entries hold and reach the anchor\n"


def test_an_empty_record_holds(unmasked: Masked) -> None:
    assert unmasked.recovery("verify-audit") == "0 entries hold\n"
    assert unmasked.recovery("audit-head") == ""


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
        ("delete from recovery.audit where entry = 5; update recovery.audit set entry = entry - 1 where entry > 5", 5),
        # each entry sealed anew by itself: the links between them tell
        (
            (
                "delete from recovery.audit where entry = 5; update recovery.audit set entry = entry - 1, "
                "seal = recovery.audit_seal(previous_seal, entry - 1, recorded_at, actor, act, details) where entry > 5"
            ),
            5,
        ),
    ],
)
def test_a_changed_or_deleted_entry_is_named(recorded: Masked, statement: str, first_broken: int) -> None:
    assert broken(recorded) is None
    tamper(recorded, statement)
    assert broken(recorded) == first_broken


def test_the_last_entry_deleted_is_found_through_the_anchor_alone(recorded: Masked) -> None:
    anchor = recorded.recovery("audit-head").strip()
    tamper(recorded, "delete from recovery.audit where entry = 8")

    # control: the chain alone cannot know
    assert recorded.recovery("verify-audit") == "7 entries hold\n"
    done = run(["python", "-m", "recovery", "verify-audit", anchor], recorded.environment)
    assert (done.returncode, done.stderr) == (1, "entry 8 of the audit is missing or was changed; 7 entries are there\n")


def test_a_record_that_was_written_anew_is_found_through_the_anchor(recorded: Masked) -> None:
    entry, seal = recorded.recovery("audit-head").strip().split(":")
    tamper(
        recorded,
        "update recovery.audit set actor = 'somebody' where entry = 8; "
        "update recovery.audit set seal = recovery.audit_seal(previous_seal, entry, recorded_at, actor, act, details) where entry = 8",
    )
    assert broken(recorded) is None
    assert broken(recorded, f"{entry}, '{seal}'") == 8


@pytest.mark.parametrize(
    "statement", ["update recovery.audit set actor = 'x'", "delete from recovery.audit", "truncate recovery.audit"]
)  # fmt: skip
@pytest.mark.parametrize("setting", ["set role pipeline_owner", "set session_replication_role = replica"])
def test_neither_the_owner_nor_a_replication_session_can_change_the_record(recorded: Masked, setting: str, statement: str) -> None:
    with recorded.connect() as admin:
        admin.execute(setting.encode())
        with pytest.raises(errors.InsufficientPrivilege, match="append-only"):
            admin.execute(statement.encode())
    assert recorded.value("select count(*) from recovery.audit") == ENTRIES


@pytest.mark.parametrize("role", [*PII_ROLES, "analyst", "transformer", "loader"])
def test_no_login_role_can_write_the_record(recorded: Masked, role: str) -> None:
    with recorded.connect(role) as connection:
        for statement in ("update recovery.audit set actor = 'x'", "delete from recovery.audit", "truncate recovery.audit"):
            with pytest.raises((errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction)):
                connection.execute(statement.encode())


def test_acts_at_the_same_time_make_one_chain(unmasked: Masked) -> None:
    def act(_: int) -> None:
        with unmasked.connect("pii_requester") as requester:
            for _ in range(10):
                requester.execute("select recovery.request_reveal(array['v1:' || repeat('0', 32)], 'fraud', 'case 1')")

    with ThreadPoolExecutor(8) as people:
        list(people.map(act, range(8)))

    assert unmasked.recovery("verify-audit") == "80 entries hold\n"


def test_a_person_who_is_given_twice_is_counted_once(unmasked: Masked) -> None:
    unmasked.land([login("twin", "192.0.2.1", "device-1"), login("twin", "192.0.2.2", "device-2"), login("other", "192.0.2.3", "device-3")])
    assert len(unmasked.recovery("erase", stdin="twin\nother\n twin\n").splitlines()) == 3
    details = unmasked.value("select details from recovery.audit where act = 'erased'")
    assert (details["persons"], details["raw_messages"]) == (2, 3)
