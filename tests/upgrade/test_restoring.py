"""docs/restoring.md: a dump restored into a fresh server without an error, after which the loader and dbt go on."""

import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from psycopg import sql

from loader.migrate import migrate
from sandbox import postgres
from sandbox.postgres import Postgres
from tests import canaries
from tests.support import DATABASE_FILES, Database, Queue, dbt, environment, land, run

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
TOTALS = (
    "select sum(landed), sum(masked), sum(rejected), sum(erased), sum(waiting), sum(lost), sum(in_both) from analytics.daily_reconciliation"
)


def client(program: str, database: Database, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of PostgreSQL's on *database*, as its administrator."""
    server = database.server
    variables = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": server.user, "PGPASSWORD": server.password}
    command = [str(postgres.binaries() / program), f"--dbname={database.name}", *words]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("is_superuser", [True, False])
def test_a_dump_restored_into_a_fresh_server_goes_on(
    masked: Database, queue: Queue, passwords: Mapping[str, str], tmp_path: Path, *, is_superuser: bool
) -> None:
    land(masked, [canaries.login(user_id="waiting")])
    masked.rows("select recovery.erase(array['canary-user'])", "privacy_officer")
    before = masked.rows(STATE)
    anchor_entry, anchor_seal = masked.rows("select * from recovery.audit_head()")[0]
    messages = masked.value("select count(*) from staging.raw_logins")
    erasures = masked.value("select count(*) from recovery.erased_messages")
    masked_message = masked.rows("select message_id, sent_at, '{}' from marts.user_logins limit 1")[0]
    dumped = client("pg_dump", masked, "--format=custom", f"--file={tmp_path / 'logins.dump'}")
    assert (dumped.returncode, dumped.stderr) == (0, "")

    with postgres.throwaway(tmp_path, secrets.token_urlsafe()) as fresh:
        with fresh.connect() as connection:
            administrator = sql.SQL("create role administrator login createdb createrole password {}").format(fresh.password)
            connection.execute(administrator)
        user = fresh.user if is_superuser else "administrator"
        restored = Database(Postgres(fresh.directory, fresh.port, user, fresh.password), "logins", passwords)
        with restored.server.connect() as connection:
            connection.execute("create database logins encoding 'UTF8' template template0")
        with restored.connect() as connection:
            connection.execute((DATABASE_FILES / "1_roles.sql").read_bytes())
        read = client("pg_restore", restored, "--single-transaction", str(tmp_path / "logins.dump"))
        assert (read.returncode, read.stderr) == (0, "")
        with restored.connect() as connection:
            ran = migrate(connection, DATABASE_FILES, passwords)
        assert not [name for name in ran if name.startswith("4_tables")]
        assert restored.rows(STATE) == before
        assert restored.rows(f"select * from recovery.verify_audit({anchor_entry}, '{anchor_seal}')") == [(anchor_entry, None)]

        queue.send(canaries.login(user_id="after"), canaries.login())
        drained = run(["python", "-m", "loader", "drain"], environment(restored, queue))
        assert drained.returncode == 0, drained.stderr
        with restored.connect("loader") as connection:
            # SQS delivers again what was masked before the dump
            for table, columns in (("raw_logins", "message_id, sent_at, body"), ("unjudged", "message_id, sent_at")):
                row = sql.SQL(", ").join(masked_message[: columns.count(",") + 1])
                statement = sql.SQL("insert into staging.{} ({}) values ({}) on conflict do nothing")
                connection.execute(statement.format(sql.Identifier(table), sql.SQL(columns), row))
        built = dbt(restored, ["build"], tmp_path)
        assert built.returncode == 0, built.stdout

        landed, masked_logins, rejected, erased, *none = restored.rows(TOTALS, "transformer")[0]
        assert none == [0, 0, 0]
        # two came with the queue, of which one is an erased person's
        assert landed == messages + erasures + 2
        assert (masked_logins + rejected, erased) == (messages + 1, erasures + 1)
        assert restored.value("select count(*) from marts.user_logins where user_id in ('waiting', 'after')") == 2
        assert {row[0] for row in restored.rows("select recovery.scrub(relation) from recovery.scrubs", "privacy_officer")} == {True}
