"""What was decided and deleted before a backup holds on the server that the backup is restored to, whose transaction ids are lower."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import postgres, processes
from tests.recovery.conftest import Masked, Message, reveal_all
from tests.support import Database, run


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs, beside the server's own."""
    return str(postgres.binaries() / name)


@pytest.fixture
def restored(masked: Masked, story: dict[str, Message], tmp_path: Path) -> Iterator[Masked]:
    """The database after an erasure that was not scrubbed and the opening of a reveal, in a new server made of its dump."""
    token = masked.tokens(story["old"])[0]
    with masked.connect() as admin:
        # more transactions than the new server will have had
        admin.execute("do $$ begin for n in 1..20000 loop perform pg_current_xact_id(); commit; end loop; end $$")
    with masked.connect("privacy_officer") as officer:
        officer.execute("select recovery.erase('{u-erased}')")
    for words in (["request", token, "--purpose", "fraud", "--legal-reference", "case 1"], ["approve"], ["open"]):
        reveal = [masked.value("select reveal_id::text from recovery.reveals")] if len(words) == 1 else []
        masked.recovery(*words, *reveal)
    old = masked.database
    with postgres.throwaway(tmp_path, old.server.password) as server:
        new = Database(server, "postgres", old.passwords)
        for command, database, words in (
            ("pg_dumpall", old, ["--roles-only", "--file=roles.sql"]),
            ("psql", new, ["--quiet", "--file=roles.sql"]),
            ("pg_dump", old, ["--format=custom", "--file=dump"]),
            ("pg_restore", new, ["--dbname=postgres", "--clean", "--if-exists", "--exit-on-error", "dump"]),
        ):
            variables = os.environ | {
                "PGHOST": processes.HOST, "PGPORT": str(database.server.port), "PGUSER": "postgres",
                "PGPASSWORD": database.server.password, "PGDATABASE": database.name,
            }  # fmt: skip
            done = subprocess.run([program(command), *words], env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        yield Masked(new, masked.target)


@pytest.mark.slow
def test_recovery_goes_on_after_a_restore_into_a_younger_server(restored: Masked, story: dict[str, Message]) -> None:
    opened = restored.value("select opened_xid::text::bigint from recovery.reveals")
    # control, for the server is younger
    assert restored.value("select pg_current_xact_id()::text::bigint") < opened
    reveal_id = restored.value("select reveal_id::text from recovery.reveals")
    refused = run(["python", "-m", "recovery", "read", reveal_id], restored.environment)
    assert (refused.returncode, refused.stderr) == (os.EX_NOPERM, "reveal refused\n")

    # asked for again, it is given
    ip, device = restored.tokens(story["old"])
    assert reveal_all(restored, [ip, device]) == {(ip, story["old"].event["ip"]), (device, "canary-device-old")}

    assert restored.rows("select from recovery.scrubs") != []
    restored.recovery("scrub")
    assert restored.rows("select from recovery.scrubs") == []

    restored.land([story["erased"]])
    restored.mask()
    assert restored.value("select count(*) from marts.user_logins where user_id = 'u-erased'") == 0
    assert restored.recovery("erase", stdin="u-old\n") == "erased: 1 raw messages, 1 logins, 0 rejections\n"
    assert restored.rows("select from recovery.scrubs") == []
    assert "logins changed" in restored.recovery("rotate")
    assert restored.recovery("verify-audit").endswith("entries hold\n")
