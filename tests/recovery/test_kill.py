"""Each act, killed with SIGKILL in its middle, has done nothing by halves, and is completed when it is run again."""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psycopg
import pytest

from loader.migrate import migrate
from sandbox import postgres
from sandbox.postgres import SETTINGS, THROWAWAY_SETTINGS
from tests import forks
from tests.recovery.conftest import REVEAL, Masked, Message, copy_of
from tests.support import DATABASE_FILES, ROOT, create_copy, ended, environment

pytestmark = pytest.mark.slow

STATE = """
    select
        (select count(*) from staging.raw_logins), (select count(*) from marts.user_logins), (select count(*) from recovery.tombstones),
        (select count(*) from recovery.audit), exists (select from recovery.scrubs)
"""
TOKENS = "select message_id, masked_ip, masked_device_id from marts.user_logins"
KEYS = "select * from masking.keys order by domain"
SESSION = "from pg_stat_activity where application_name = 'user-logins recovery' and datname = current_database()"
LOCKED_LOGINS = "select from marts.user_logins for update"
LOCKED_DAY = "lock table {day} in access share mode"
# what every step of a reveal does last
AUDIT_LOCK = "lock table recovery.audit in share row exclusive mode"
ERASED = "erased: 7 raw messages, 2 logins, 5 rejections\n"
# By name: a command, what holds it up in its middle, the function that waits there, the STATE in which a kill leaves the database,
# the command that completes it, and what that says.
ACTS = {
    "erasing": ("erase", LOCKED_LOGINS, "erase", (13, 6, 0, 2, False), "erase", ERASED),
    "scrubbing what was erased": ("erase", "select count(*) from staging.raw_logins", "scrub", (6, 4, 1, 3, True), "scrub", ""),
    "rotating": ("rotate", LOCKED_LOGINS, "rotate", (13, 6, 0, 2, False), "rotate", "6 logins changed, 9 tokens one to one"),
    "expiring the second day": ("expire", LOCKED_DAY, "expire_next", (11, 6, 0, 3, False), "expire", "\n1 days expired\n"),
    "opening a reveal": ("open", AUDIT_LOCK, "open_reveal", (13, 6, 0, 2, False), "open", "opened\n"),
}


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory, passwords: Mapping[str, str], story: dict[str, Message]) -> Iterator[Masked]:
    """On a server of its own, a database in which the story has been masked, and a reveal of what is in "old" has been approved."""
    with postgres.throwaway(tmp_path_factory.mktemp("doomed"), secrets.token_urlsafe()) as server:
        made = Masked(server, "doomed", passwords)
        create_copy(server, made.name, "template0")
        with made.connect() as connection:
            migrate(connection, DATABASE_FILES, passwords)
        made.land(story.values())
        made.dbt("run")
        made.recovery("request", *made.tokens(story["old"]), "--purpose", "fraud", "--legal-reference", "case 1")
        made.recovery("approve", made.value("select reveal_id::text from recovery.reveals"))
        yield made


@pytest.fixture
def doomed(crashing: Masked) -> Iterator[Masked]:
    postgres.start(crashing.server, SETTINGS | THROWAWAY_SETTINGS)
    yield from copy_of(crashing.server, crashing.passwords, crashing.name)


def words(masked: Masked, command: str) -> list[str]:
    """The command, with the id of the reveal if it takes one."""
    return [command, *([masked.value("select reveal_id::text from recovery.reveals")] if command in {"open", "read"} else [])]


@contextlib.contextmanager
def held_up(masked: Masked, command: str, held: str, function: str, folder: Path) -> Iterator[ForkServerProcess]:
    """Run `python -m recovery COMMAND` until its transaction has done work and waits for the lock that *held* takes."""
    (folder / "stdin").write_text("u-erased\n")
    files = {"errors": folder / "stderr", "stdin": folder / "stdin"}
    with contextlib.suppress(psycopg.OperationalError), masked.connect(autocommit=False) as holder:
        holder.execute(held.encode())
        process = forks.start(forks.command, environment(masked), folder / "stdout", "recovery", words(masked, command), ROOT, **files)
        waiting = f"wait_event_type = 'Lock' and backend_xid is not null and query like '%recovery.{function}(%'"
        masked.wait_until(f"select {SESSION} and {waiting}")
        yield process
        holder.rollback()


def kill(masked: Masked, process: ForkServerProcess, _folder: Path) -> None:
    """Kill the command, and wait until the server has given up what it was told last: a lock time-out away."""
    process.kill()
    process.join()
    masked.wait_until(f"select where not exists (select {SESSION})")


def crash(masked: Masked, process: ForkServerProcess, folder: Path) -> None:
    """Kill all of the server's processes at once, and start it again."""
    postgres.kill(masked.server)
    with pytest.raises(psycopg.OperationalError):
        masked.connect().close()
    postgres.start(masked.server, SETTINGS | THROWAWAY_SETTINGS)
    assert ended(process) == os.EX_TEMPFAIL
    assert (folder / "stderr").read_text().endswith("the server ended the connection; run the command again, it goes on where it was\n")


@pytest.mark.parametrize("end", [kill, crash])
@pytest.mark.parametrize("act", ACTS)
def test_an_act_that_is_killed_has_done_nothing_by_halves_and_is_completed_by_the_next(
    doomed: Masked, story: dict[str, Message], tmp_path: Path, act: str, end: Callable[[Masked, ForkServerProcess, Path], None]
) -> None:
    command, held, function, state, again, said = ACTS[act]
    tokens, keys = set(doomed.rows(TOKENS)), doomed.rows(KEYS)
    with held_up(doomed, command, held.format(day=story["old"].partition), function, tmp_path) as process:
        end(doomed, process, tmp_path)

    assert doomed.rows(STATE) == [state]
    assert set(doomed.rows(TOKENS)) <= tokens
    assert doomed.rows(KEYS) == keys

    assert said in doomed.recovery(*words(doomed, again), stdin="u-erased\n")

    assert doomed.rows("select from recovery.scrubs") == []
    if command == "open":
        assert "2001:db8:ffff::1" in doomed.recovery(*words(doomed, "read"))


def test_a_reveal_that_is_killed_while_it_is_read_counts_as_read(doomed: Masked, story: dict[str, Message], tmp_path: Path) -> None:
    """Whoever broke it off may have seen the value; another reveal completes what was begun."""
    doomed.recovery(*words(doomed, "open"))
    with held_up(doomed, "read", AUDIT_LOCK, "read_reveal", tmp_path) as process:
        process.kill()
        process.join()
    assert (tmp_path / "stdout").read_text() == ""
    doomed.wait_until(f"select where not exists (select {SESSION})")
    again = doomed.run(*words(doomed, "read"))
    assert (again.returncode, again.stderr) == (os.EX_NOPERM, "reveal refused\n")
    token = doomed.tokens(story["old"])[0]
    assert doomed.reveal(token) == {(token, "2001:db8:ffff::1")}


def test_a_reading_killed_with_the_server_stays_on_record(doomed: Masked) -> None:
    with doomed.connect("pii_requester", autocommit=False) as reader:
        # the requester does what can be done to have the record lost with the crash
        reader.execute("set synchronous_commit = off")
        reveal_id = doomed.value("select reveal_id from recovery.reveals")
        reader.execute(REVEAL["open"].format(reveal_id).encode())
        reader.commit()
        assert len(reader.execute(REVEAL["read"].format(reveal_id).encode()).fetchall()) == 2
        postgres.kill(doomed.server)
        with pytest.raises(psycopg.OperationalError):
            reader.execute("select")
    postgres.start(doomed.server, SETTINGS | THROWAWAY_SETTINGS)

    last = "select act, details ->> 'requester' from recovery.audit order by entry desc limit 1"
    assert doomed.rows(last) == [("reveal_opened", "pii_requester")]
    assert doomed.recovery("verify-audit") == "3 entries hold\n"
