"""What PostgreSQL tells everybody about itself holds nothing of what the messages said."""

import psycopg
import pytest

from tests import canaries, support
from tests.support import Database


@pytest.mark.parametrize("role", ["analyst", "reporter", "transformer", "loader", "pii_requester", "pii_approver", "privacy_officer"])
def test_a_role_finds_no_personal_value_and_no_key_in_any_relation_that_it_can_read(masked: Database, role: str) -> None:
    """Not in the catalog either: function sources, statistics, settings, comments, what others run; nor in the plans of the views."""
    blocks = support.key_blocks(masked)
    own = {"staging.raw_logins"} if role == "transformer" else set()

    def found() -> tuple[set[str], set[str]]:
        with masked.connect(role) as connection:
            texts = support.readable(connection)
            for view in [name for name in texts if name.startswith("analytics.")]:
                texts[f"plan of {view}"] = str(connection.execute(f"explain (analyze, verbose) select * from {view}".encode()).fetchall())
        assert len(texts) > 100
        values = {relation for relation, text in texts.items() if canaries.found_in(text)}
        return values - own, {relation for relation, text in texts.items() if canaries.keys_found_in(text, blocks)}

    other = "analyst" if role == "pii_approver" else "pii_approver"
    with masked.connect() as administrator, masked.connect(other) as session:
        administrator.execute("analyze")
        session.execute(f"select '{canaries.DEVICE_ID}' as seen_by_nobody".encode())
        assert found() == (set(), set())
        # the guards removed
        administrator.execute(
            "create view analytics.mine as "
            "select case when length(body) < 9999 and pg_input_is_valid(body, 'jsonb') then md5(body::jsonb ->> 'ip') end as ip, "
            f"'\\x{blocks[0].hex()}'::bytea < convert_to(message_id, 'UTF8') as is_less from staging.raw_logins".encode()
        )
        administrator.execute(f"create function masking.visible() returns bytea return '\\x{blocks[0].hex()}'::bytea".encode())
        administrator.execute(f"grant usage on schema analytics to {role}; grant select on analytics.mine to {role}".encode())
        administrator.execute(f"grant pg_read_all_stats to {role}".encode())
        try:
            assert found() == ({"analytics.mine", "pg_stat_activity"}, {"pg_proc", "pg_rewrite", "pg_views", "plan of analytics.mine"})
        finally:
            administrator.execute(f"revoke pg_read_all_stats from {role}".encode())


def test_personal_values_are_in_staging_and_in_no_other_relation(masked: Database) -> None:
    """Nor in the catalog, where even the superuser finds them in no statistics."""
    partition = masked.value("select inhrelid::regclass::text from pg_inherits where inhparent = 'staging.raw_logins'::regclass")
    with masked.connect() as connection:
        connection.execute("analyze")
        holding = {relation for relation, text in support.readable(connection).items() if canaries.found_in(text)}
        # the last two are views of the first, for its owner alone
        assert holding == {"staging.raw_logins", partition, "staging.message_users", "staging.personal_values"}
        # the guard removed: statistics of bodies
        connection.execute(f"alter table {partition} alter column body set statistics 1000".encode())
        connection.execute(
            "insert into staging.raw_logins (message_id, sent_at, body) select message_id || '+', sent_at, body from staging.raw_logins"
        )
        connection.execute("analyze")
        statistics = connection.execute("select most_common_vals::text from pg_stats where attname = 'body'").fetchall()
    assert canaries.found_in(str(statistics))


def test_a_view_does_not_run_a_readers_condition_on_rows_that_it_hides(masked: Database) -> None:
    """A division by zero says that a row is there. Behind the barrier it is tried on the view's own rows alone."""
    hidden = masked.value("select masked_ip from marts.user_logins group by masked_ip having count(*) = 1 limit 1")
    probe = f"select count(*) from analytics.shared_ips where 1 / (case masked_ip when '{hidden}' then 0 else 1 end) = 1"
    assert masked.value(probe, "analyst") > 0
    masked.execute("alter view analytics.shared_ips reset (security_barrier)")
    with pytest.raises(psycopg.errors.DivisionByZero):
        masked.value(probe, "analyst")
