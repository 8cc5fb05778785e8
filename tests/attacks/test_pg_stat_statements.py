"""pg_stat_statements keeps the text of what everybody ran. No role reads it, and there is nothing in it to be read."""

from pathlib import Path

import psycopg
import pytest

from tests import canaries, support
from tests.attacks.conftest import Talkative
from tests.support import Queue, run

pytestmark = pytest.mark.slow

ROLES = ("analyst", "reporter", "transformer", "loader", "pii_requester", "pii_approver", "privacy_officer")
SEEN = "select coalesce(string_agg(query, ' '), '') from public.pg_stat_statements"


def test_a_role_reads_no_statement_of_another(talkative: Talkative) -> None:
    database = talkative.database
    keys = support.key_blocks(database)
    with database.connect() as connection:
        # an administrator's carelessness: constants are struck out of queries, not out of what is in a DO
        connection.execute(f"do $$ begin perform '{canaries.DEVICE_ID}', '\\x{keys[0].hex()}'::bytea; end $$".encode())
        for role in ROLES:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for schema public"):
                database.rows(SEEN, role)
            # the first guard removed: the text of others still does not show
            connection.execute(f"grant usage on schema public to {role}".encode())
            seen = database.value(SEEN, role)
            assert "<insufficient privilege>" in seen
            assert not canaries.found_in(seen)
            assert not canaries.keys_found_in(seen, keys)
            # the second one too
            connection.execute(f"grant pg_read_all_stats to {role}".encode())
            try:
                seen = database.value(SEEN, role)
            finally:
                connection.execute(f"revoke pg_read_all_stats from {role}".encode())
            assert canaries.found_in(seen)
            assert canaries.keys_found_in(seen, keys)


def test_the_whole_pipeline_leaves_no_key_and_no_value_in_it(talkative: Talkative, queue: Queue, tmp_path: Path) -> None:
    """Loaded, masked, tested, revealed, rotated, erased and expired; then even the superuser finds nothing."""
    database = talkative.database
    environ = support.environment(database, queue)

    def do(*words: str, stdin: str = "") -> str:
        done = run(["python", "-m", *words], environ, stdin=stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    queue.send(*canaries.events())
    do("loader", "drain")
    for words in (["run"], ["test", "--exclude", "assert_few_messages_are_rejected"]):
        assert support.dbt(database, words, tmp_path).returncode == 0
    # not by asking the masker, for this server logs what it is asked
    token = database.value(
        "select masked_ip from marts.user_logins inner join staging.raw_logins using (message_id) "
        f"where strpos(body, '\"{canaries.IPV4_NETWORK}') > 0"
    )
    reveal = do("recovery", "request", token, "--purpose", "fraud", "--legal-reference", "case 1").strip()
    do("recovery", "approve", reveal)
    do("recovery", "open", reveal)
    assert canaries.IPV4 in do("recovery", "read", reveal)
    keys = support.key_blocks(database)
    do("recovery", "rotate")
    keys += support.key_blocks(database)
    assert len(set(keys)) == 18  # two blocks of five keys, and of the four that are new
    do("recovery", "erase", stdin="canary-user\n")
    do("recovery", "expire")

    seen = database.value(SEEN)
    for statement in ("copy pg_temp.incoming", "staging.begin_judging(", "recovery.read_reveal(", "recovery.rotate(", "recovery.erase("):
        assert statement in seen
    # the test's own query, whose constants are struck out
    assert not canaries.found_in(seen)
    assert not canaries.keys_found_in(seen, keys)
    talkative.assert_nothing_leaked()
