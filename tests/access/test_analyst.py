"""What the role `analyst` sees."""

from tests.support import Database


def test_analyst_reads_these_views_and_nothing_else(masked_for_all: Database) -> None:
    readable = masked_for_all.rows(
        "select relnamespace::regnamespace::text || '.' || relname from pg_class "
        "where relkind in ('r', 'v', 'm', 'p', 'f') and has_any_column_privilege(oid, 'select') "
        "and relnamespace::regnamespace::text not in ('pg_catalog', 'information_schema') order by 1",
        "analyst",
    )
    views = ["daily_logins", "daily_reconciliation", "shared_devices", "shared_ips", "user_logins"]
    assert [name for (name,) in readable] == [f"analytics.{view}" for view in views]
    for view in views:
        assert masked_for_all.value(f"select count(*) from analytics.{view}", "analyst") > 0
