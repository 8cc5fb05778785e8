"""What PostgreSQL tells everybody about itself holds nothing of what the messages said."""

import pytest

from tests import canaries, support
from tests.support import Database

VIEWS = ("user_logins", "shared_ips", "shared_devices", "daily_logins")


def relations_with_canaries(database: Database, role: str) -> list[str]:
    with database.connect(role) as connection:
        texts = support.readable(connection)
    return [relation for relation, text in texts.items() if canaries.found_in(text)]


@pytest.mark.parametrize("role", ["analyst", "loader", "pii_requester", "pii_approver", "privacy_officer"])
def test_a_role_finds_no_personal_value_in_any_relation_it_can_read(masked: Database, role: str) -> None:
    with masked.connect() as connection:
        connection.execute("analyze")
        assert relations_with_canaries(masked, role) == []
        connection.execute(
            "create view analytics.mine as "
            "select case when length(body) < 9999 and pg_input_is_valid(body, 'jsonb') then md5(body::jsonb ->> 'ip') end "
            "from staging.raw_logins"
        )
        connection.execute(f"grant usage on schema analytics to {role}; grant select on analytics.mine to {role}".encode())
    assert relations_with_canaries(masked, role) == ["analytics.mine"]


def test_personal_values_are_in_staging_and_in_no_other_relation(masked: Database) -> None:
    """Nor in the catalog, where even the superuser finds them in no statistics."""
    with masked.connect() as connection:
        connection.execute("analyze")
    partition = masked.value("select inhrelid::regclass::text from pg_inherits where inhparent = 'staging.raw_logins'::regclass")
    with masked.connect() as connection:
        texts = support.readable(connection)
        holding = {relation for relation, text in texts.items() if canaries.found_in(text)}
        # the last is a view of the first, for its owner alone
        assert holding == {"staging.raw_logins", partition, "staging.personal_values"}
        # the guard removed: statistics of bodies
        connection.execute(f"alter table {partition} alter column body set statistics 1000".encode())
        connection.execute(
            "insert into staging.raw_logins (message_id, sent_at, body) select message_id || '+', sent_at, body from staging.raw_logins"
        )
        connection.execute("analyze")
        statistics = connection.execute("select most_common_vals::text from pg_stats where attname = 'body'").fetchall()
    assert canaries.found_in(str(statistics))


@pytest.mark.parametrize("role", ["analyst", "loader", "pii_requester", "pii_approver", "privacy_officer"])
def test_a_role_sees_no_statistics_of_what_it_cannot_read(masked: Database, role: str) -> None:
    seen = "select count(*) from pg_stats where schemaname in ('staging', 'masking', 'marts')"
    with masked.connect() as connection:
        connection.execute("analyze")
        assert masked.value(seen, role) == 0
        connection.execute(f"grant usage on schema marts to {role}; grant select on marts.user_logins to {role}".encode())
    assert masked.value(seen, role) > 0


@pytest.mark.parametrize("role", ["analyst", "transformer", "loader", "pii_requester"])
def test_a_role_does_not_see_what_others_run(masked: Database, role: str) -> None:
    running = f"select '{canaries.DEVICE_ID}' as seen_by_nobody"
    activity = (
        "select coalesce(string_agg(query, ' '), '') from pg_stat_activity where usename = 'pii_approver' and datname = current_database()"
    )
    with masked.connect("pii_approver") as other:
        other.execute(running.encode())
        assert masked.value(activity, role) == "<insufficient privilege>"
        with masked.connect() as connection:
            connection.execute(f"grant pg_read_all_stats to {role}".encode())
            try:
                assert canaries.found_in(masked.value(activity, role))
            finally:
                connection.execute(f"revoke pg_read_all_stats from {role}".encode())


@pytest.mark.parametrize("role", ["analyst", "transformer"])
@pytest.mark.parametrize("view", VIEWS)
def test_explain_shows_no_key_and_no_personal_value(masked: Database, view: str, role: str) -> None:
    def explained() -> str:
        return str(masked.rows(f"explain (analyze, verbose, settings, buffers) select * from analytics.{view}", role))

    blocks = support.key_blocks(masked)
    assert not canaries.found_in(explained())
    assert not canaries.keys_found_in(explained(), blocks)
    # the guard removed: a view that masks while it is read, as the usual ones do
    with masked.connect() as connection:
        connection.execute(f"drop view analytics.{view}".encode())
        connection.execute(
            f"create view analytics.{view} as "
            f"select sha256('\\x{blocks[0].hex()}'::bytea || convert_to(message_id, 'UTF8')) from marts.user_logins".encode()
        )
        connection.execute(f"grant select on analytics.{view} to analyst; alter view analytics.{view} owner to transformer".encode())
    assert canaries.keys_found_in(explained(), blocks)


def test_a_view_does_not_run_a_readers_condition_on_rows_that_it_hides(masked: Database) -> None:
    """A division by zero says that a row is there. Behind the barrier it is tried on the view's own rows alone."""
    hidden = masked.value("select masked_ip from marts.user_logins group by masked_ip having count(*) = 1 limit 1")
    probe = f"select count(*) from analytics.shared_ips where 1 / (case masked_ip when '{hidden}' then 0 else 1 end) = 1"
    assert masked.value(probe, "analyst") > 0
    with masked.connect() as connection:
        connection.execute("alter view analytics.shared_ips reset (security_barrier)")
    with pytest.raises(Exception, match="division by zero"):
        masked.value(probe, "analyst")
