"""docs/restoring.md: a dump restored into a fresh server without an error, after which the loader, dbt and recovery go on."""

import os
import secrets
import subprocess
from pathlib import Path

import pytest
from psycopg import sql

from loader.migrate import migrate
from sandbox import postgres
from sandbox.postgres import Postgres
from tests import canaries
from tests.recovery.conftest import Masked, Message
from tests.support import DATABASE_FILES, Database, Queue, environment, land, run

STATE = """
    select 'message', message_id, sent_at::text, md5(body) from staging.raw_logins
    union all select 'login', message_id, sent_at::text, concat(user_id, masked_ip, masked_device_id, masked_network) from marts.user_logins
    union all select 'rejection', message_id, sent_at::text, reasons::text from marts.rejected_logins
    union all select 'waiting', message_id, sent_at::text, null from staging.unjudged
    union all select 'key', domain, version::text, md5(inner_block || outer_block) from masking.keys
    union all select 'tombstone', user_token, null, null from recovery.tombstones
    union all select 'to scrub', relation::text, null, null from recovery.scrubs
    order by 1, 2
"""
TOTALS = "select sum(landed), sum(masked + rejected), sum(erased), sum(waiting + lost + in_both) from analytics.daily_reconciliation"


def client(program: str, database: Database, *words: str) -> None:
    """Run a program of PostgreSQL's on *database*, as its administrator; it has nothing to say."""
    server = database.server
    variables = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": server.user, "PGPASSWORD": server.password}
    command = [str(postgres.binaries() / program), f"--dbname={database.name}", *words]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def restore(old: Database, server: Postgres, *, is_superuser: bool, dump: Path) -> Masked:
    """What the document says, in its order."""
    with server.connect() as connection:
        connection.execute(sql.SQL("create role administrator login createdb createrole password {}").format(server.password))
    user = server.user if is_superuser else "administrator"
    restored = Masked(Postgres(server.directory, server.port, user, server.password), "logins", old.passwords)
    client("pg_dump", old, "--format=custom", f"--file={dump}")
    with restored.server.connect() as connection:
        connection.execute("create database logins encoding 'UTF8' template template0")
    with restored.connect() as connection:
        connection.execute((DATABASE_FILES / "1_roles.sql").read_bytes())
        client("pg_restore", restored, "--single-transaction", str(dump))
        assert not [name for name in migrate(connection, DATABASE_FILES, restored.passwords) if name.startswith("4_tables")]
    return restored


@pytest.mark.slow
@pytest.mark.parametrize("is_superuser", [True, False])
def test_a_dump_restored_into_a_fresh_server_goes_on(masked: Database, queue: Queue, tmp_path: Path, *, is_superuser: bool) -> None:
    old = Masked(masked.server, masked.name, masked.passwords)
    # more transactions than the new server will have had
    old.execute("do $$ begin for n in 1..20000 loop perform pg_current_xact_id(); commit; end loop; end $$")
    token = old.value("select masked_ip from marts.user_logins where user_id != 'canary-user' limit 1")
    open_reveal = old.opened(token)
    land(old, [canaries.login(user_id="waiting")])
    old.execute("select recovery.erase(array['canary-user'])", role="privacy_officer")
    before = old.rows(STATE)
    anchor = old.recovery("audit-head").strip()
    messages = old.value("select count(*) from staging.raw_logins")
    erasures = old.value("select count(*) from recovery.erased_messages")
    delivered_again = Message(*old.rows("select message_id, sent_at, '{}' from marts.user_logins limit 1")[0])

    with postgres.throwaway(tmp_path, secrets.token_urlsafe()) as server:
        restored = restore(old, server, is_superuser=is_superuser, dump=tmp_path / "logins.dump")
        assert restored.rows(STATE) == before
        assert restored.recovery("verify-audit", anchor).endswith("entries hold and reach the anchor\n")

        queue.send(canaries.login(user_id="after"), canaries.login())
        drained = run(["python", "-m", "loader", "drain"], environment(restored, queue))
        assert drained.returncode == 0, drained.stderr
        restored.land([delivered_again])
        restored.dbt("build")
        # two came with the queue, of which one is an erased person's
        assert restored.rows(TOTALS, "transformer") == [(messages + erasures + 2, messages + 1, erasures + 1, 0)]
        assert restored.value("select count(*) from marts.user_logins where user_id in ('waiting', 'after')") == 2

        # control: this server has given fewer transaction ids out than the backup names
        assert restored.value("select opened_xid > pg_current_xact_id() from recovery.reveals")
        refused = restored.run("read", open_reveal)
        assert (refused.returncode, refused.stderr) == (os.EX_NOPERM, "reveal refused\n")
        # asked for again, it is given
        assert restored.reveal(token) == old.reveal(token) != set()
        assert restored.recovery("erase", stdin="waiting\n") == "erased: 1 raw messages, 1 logins, 0 rejections\n"
        assert "logins changed" in restored.recovery("rotate")
        assert restored.rows("select from recovery.scrubs") == []
        assert restored.recovery("verify-audit").endswith("entries hold\n")
