"""Each act, killed with SIGKILL in its middle, has done nothing by halves, and is completed when it is run again."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from loader.migrate import migrate
from sandbox import postgres
from sandbox.postgres import SETTINGS, THROWAWAY_SETTINGS, Postgres
from tests.recovery.conftest import Masked, Message, wait_until
from tests.support import DATABASE_FILES, ROOT, Database, create_copy

pytestmark = pytest.mark.slow

MASKED_TEMPLATE = "recovery_template"


@pytest.fixture(scope="module")
def doomed_server(
    tmp_path_factory: pytest.TempPathFactory, passwords: Mapping[str, str], dbt_target: Path, story: dict[str, Message]
) -> Iterator[Postgres]:
    """A server of these tests' own, with a database in which the story has been masked."""
    with postgres.throwaway(tmp_path_factory.mktemp("doomed"), secrets.token_urlsafe()) as server:
        with server.connect() as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(MASKED_TEMPLATE)))
        with server.connect(MASKED_TEMPLATE) as connection:
            migrate(connection, DATABASE_FILES, passwords)
        made = Masked(Database(server, MASKED_TEMPLATE, passwords), dbt_target)
        made.land(story.values())
        made.dbt("run")
        yield server


@pytest.fixture
def doomed(doomed_server: Postgres, passwords: Mapping[str, str], dbt_target: Path, request: pytest.FixtureRequest) -> Iterator[Masked]:
    postgres.start(doomed_server, SETTINGS | THROWAWAY_SETTINGS)
    name = f"doomed_{abs(hash(request.node.name))}"
    create_copy(doomed_server, name, MASKED_TEMPLATE)
    yield Masked(Database(doomed_server, name, passwords), dbt_target)
    postgres.start(doomed_server, SETTINGS | THROWAWAY_SETTINGS)


def begin(masked: Masked, *words: str, stdin: str = "") -> "subprocess.Popen[str]":
    """Start `python -m recovery` and go on."""
    command = [sys.executable, "-m", "recovery", *words]
    process = subprocess.Popen(
        command, env=masked.environment, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(stdin)
    process.stdin.close()
    process.stdin = None
    return process


def wait_until_it_is_held_up(masked: Masked, function: str) -> None:
    """The act is in its middle: its transaction has done work, and waits for the lock that the test holds."""
    wait_until(
        masked,
        "select from pg_stat_activity where application_name = 'user-logins recovery' and wait_event_type = 'Lock' "
        f"and backend_xid is not null and query like '%{function}%' and datname = current_database()",
    )


def kill(masked: Masked, process: "subprocess.Popen[str]") -> None:
    """Kill the command, and wait until the server has given up what it was told last: a lock time-out away."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    wait_until(
        masked,
        "select where not exists (select from pg_stat_activity where application_name = 'user-logins recovery' "
        "and datname = current_database())",
    )


def crash(masked: Masked) -> None:
    """Kill all of the server's processes at once, and start it again."""
    server = masked.database.server
    postgres.kill(server)
    with pytest.raises(psycopg.OperationalError):
        masked.connect().close()
    postgres.start(server, SETTINGS | THROWAWAY_SETTINGS)


@contextlib.contextmanager
def held(masked: Masked, statement: str) -> Iterator[None]:
    """Hold what *statement* locks."""
    with contextlib.suppress(psycopg.OperationalError), masked.connect(autocommit=False) as holder:
        holder.execute(statement.encode())
        yield
        holder.rollback()


def counts(masked: Masked) -> list[tuple[int, ...]]:
    return masked.rows(
        "select (select count(*) from staging.raw_logins), (select count(*) from marts.user_logins), "
        "(select count(*) from recovery.tombstones), (select count(*) from recovery.audit)"
    )


def test_an_erasure_killed_with_the_server(doomed: Masked) -> None:
    before = counts(doomed)
    with held(doomed, "select from marts.user_logins where user_id = 'u-erased' for update"):
        erasing = begin(doomed, "erase", stdin="u-erased\n")
        wait_until_it_is_held_up(doomed, "recovery.erase")
        crash(doomed)
    _, said = erasing.communicate(timeout=30)
    assert (erasing.returncode, said) == (
        os.EX_TEMPFAIL,
        "the server ended the connection; run the command again, it goes on where it was\n",
    )
    assert counts(doomed) == before

    assert doomed.recovery("erase", stdin="u-erased\n") == "erased: 7 raw messages, 2 logins, 5 rejections\n"
    assert doomed.rows("select from recovery.scrubs") == []


def test_an_erasure_whose_command_is_killed_before_it_has_scrubbed(doomed: Masked) -> None:
    with held(doomed, "select count(*) from staging.raw_logins"):
        erasing = begin(doomed, "erase", stdin="u-erased\n")
        wait_until_it_is_held_up(doomed, "recovery.scrub")
        kill(doomed, erasing)
    assert doomed.rows("select from recovery.scrubs") != []

    doomed.recovery("scrub")

    assert doomed.rows("select from recovery.scrubs") == []


def test_a_rotation_killed_with_the_server(doomed: Masked) -> None:
    tokens, keys = (
        "select message_id, masked_ip, masked_device_id from marts.user_logins order by 1",
        "select * from masking.keys order by 1",
    )
    before = doomed.rows(tokens), doomed.rows(keys)
    with held(doomed, "select from marts.user_logins for update"):
        rotating = begin(doomed, "rotate")
        wait_until_it_is_held_up(doomed, "recovery.rotate")
        crash(doomed)
    rotating.communicate(timeout=30)
    assert rotating.returncode == os.EX_TEMPFAIL
    assert (doomed.rows(tokens), doomed.rows(keys)) == before

    assert "logins changed" in doomed.recovery("rotate")

    assert all(ip[:3] == device[:3] == "v2:" for _, ip, device in doomed.rows(tokens))


def test_a_rotation_whose_command_is_killed(doomed: Masked) -> None:
    with held(doomed, "select from marts.user_logins for update"):
        rotating = begin(doomed, "rotate")
        wait_until_it_is_held_up(doomed, "recovery.rotate")
        kill(doomed, rotating)

    assert "logins changed" in doomed.recovery("rotate")

    assert {version for (version,) in doomed.rows("select version from masking.keys where domain != 'erased_user'")} == {2}


def test_an_expiry_killed_with_the_server_in_its_second_day(doomed: Masked) -> None:
    day = doomed.value(
        "select max(relname) from pg_class where relname like 'raw_logins_%' and relkind = 'r' and "
        "right(relname, 8) < to_char(now() - interval '31 days', 'YYYYMMDD')"
    )
    with held(doomed, f"lock table staging.{day} in access share mode"):
        expiring = begin(doomed, "expire")
        wait_until(doomed, "select from recovery.audit where act = 'expired'")
        wait_until_it_is_held_up(doomed, "recovery.expire_next")
        crash(doomed)
    expiring.communicate(timeout=30)
    assert expiring.returncode == os.EX_TEMPFAIL
    assert doomed.value(f"select to_regclass('staging.{day}') is not null")
    assert doomed.value("select count(*) from recovery.audit where act = 'expired'") == 1

    assert doomed.recovery("expire").splitlines()[-1] == "1 days expired"

    assert doomed.value(f"select to_regclass('staging.{day}') is null")


def test_an_expiry_whose_command_is_killed(doomed: Masked, story: dict[str, Message]) -> None:
    last = story["old"].partition
    with held(doomed, f"lock table {last} in access share mode"):
        expiring = begin(doomed, "expire")
        wait_until(doomed, "select from recovery.audit where act = 'expired'")
        wait_until_it_is_held_up(doomed, "recovery.expire_next")
        kill(doomed, expiring)
    assert doomed.value(f"select to_regclass('{last}') is not null")

    assert doomed.recovery("expire").splitlines()[-1] == "1 days expired"


def approved(doomed: Masked) -> tuple[str, str]:
    """The id of a reveal that was asked for and allowed, and what it must give."""
    token = doomed.value("select masked_ip from marts.user_logins where user_id = 'u-old'")
    reveal_id = doomed.recovery("request", token, "--purpose", "fraud", "--legal-reference", "case 1").strip()
    doomed.recovery("approve", reveal_id)
    return reveal_id, "2001:db8:ffff::1"


# what every step of a reveal does last
AUDIT_LOCK = "lock table recovery.audit in share row exclusive mode"


def test_a_reveal_killed_with_the_server_while_it_is_opened(doomed: Masked) -> None:
    reveal_id, value = approved(doomed)
    with held(doomed, AUDIT_LOCK):
        opening = begin(doomed, "open", reveal_id)
        wait_until_it_is_held_up(doomed, "recovery.open_reveal")
        crash(doomed)
    opening.communicate(timeout=30)
    assert opening.returncode == os.EX_TEMPFAIL
    assert doomed.rows("select act from recovery.audit order by entry desc limit 1") == [("reveal_approved",)]

    assert doomed.recovery("open", reveal_id) == "opened\n"

    assert value in doomed.recovery("read", reveal_id)


def test_a_reveal_whose_command_is_killed_while_it_is_read(doomed: Masked) -> None:
    reveal_id, value = approved(doomed)
    doomed.recovery("open", reveal_id)
    with held(doomed, AUDIT_LOCK):
        reading = begin(doomed, "read", reveal_id)
        wait_until_it_is_held_up(doomed, "recovery.read_reveal")
        reading.send_signal(signal.SIGKILL)
        printed, _ = reading.communicate(timeout=30)
    assert printed == ""
    # whoever broke it off may have seen the value: it counts as read, and another reveal completes what was begun
    again = subprocess.run(
        [sys.executable, "-m", "recovery", "read", reveal_id], env=doomed.environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (again.returncode, again.stderr) == (os.EX_NOPERM, "reveal refused\n")
    second, _ = approved(doomed)
    doomed.recovery("open", second)
    assert value in doomed.recovery("read", second)


def test_a_reading_killed_with_the_server_stays_on_record(doomed: Masked) -> None:
    token = doomed.value("select masked_ip from marts.user_logins where user_id = 'u-old'")
    reader = doomed.connect("pii_requester", autocommit=False)
    # the requester does what can be done to have the record lost with the crash
    reader.execute("set synchronous_commit = off")
    row = reader.execute("select recovery.request_reveal(%s, 'fraud', 'case 1')", ([token],)).fetchone()
    reader.commit()
    with doomed.connect("pii_approver") as approver:
        approver.execute("select recovery.approve_reveal(%s)", row)
    reader.execute("select recovery.open_reveal(%s)", row)
    reader.commit()
    assert reader.execute("select plain_value from recovery.read_reveal(%s)", row).fetchall() == [("2001:db8:ffff::1",)]

    crash(doomed)
    reader.close()

    assert doomed.rows("select act, details ->> 'requester' from recovery.audit order by entry desc limit 1") == [
        ("reveal_opened", "pii_requester")
    ]
    assert doomed.recovery("verify-audit") == "3 entries hold\n"
