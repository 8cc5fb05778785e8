"""What the role `analyst` sees, and what it is refused."""

import pytest

from tests.access.refusals import LEAKY_FUNCTION, ON_DATABASE, Attack, assert_refused, attacks_as
from tests.support import Database

USAGE = "grant usage on schema staging, masking, marts to analyst;"


@pytest.mark.parametrize("view", ["user_logins", "shared_ips", "shared_devices", "daily_logins", "daily_reconciliation"])
def test_analyst_reads_the_view(masked_for_all: Database, view: str) -> None:
    assert masked_for_all.value(f"select count(*) from analytics.{view}", "analyst") > 0


def test_analyst_reads_these_views_and_nothing_else(masked_for_all: Database) -> None:
    readable = masked_for_all.rows(
        "select relnamespace::regnamespace::text || '.' || relname from pg_class "
        "where relkind in ('r', 'v', 'm', 'p', 'f') and has_any_column_privilege(oid, 'select') "
        "and relnamespace::regnamespace::text not in ('pg_catalog', 'information_schema') order by 1",
        "analyst",
    )
    assert [name for (name,) in readable] == [
        "analytics.daily_logins",
        "analytics.daily_reconciliation",
        "analytics.shared_devices",
        "analytics.shared_ips",
        "analytics.user_logins",
    ]


@attacks_as(
    "analyst",
    Attack(
        "reading staging",
        "select body from staging.raw_logins",
        USAGE + "grant select on staging.raw_logins to analyst; create policy mine on staging.raw_logins to analyst using (true)",
    ),
    Attack("reading a partition of staging", "select body from {partition}", "grant pipeline_owner to analyst"),
    Attack("reading marts", "select message_id from marts.user_logins", USAGE + "grant select on marts.user_logins to analyst"),
    Attack("reading rejects", "select reasons from marts.rejected_logins", USAGE + "grant select on marts.rejected_logins to analyst"),
    Attack(
        "taking tokens and bodies together",
        "select masked_ip, body from staging.logins inner join staging.raw_logins using (message_id)",
        USAGE + "grant transformer to analyst",
    ),
    Attack("creating a table among the views", "create table analytics.mine ()", "grant create on schema analytics to analyst"),
    Attack("creating a view", "create view analytics.mine as select 1", "grant create on schema analytics to analyst"),
    Attack("creating a temp table", "create temp table mine ()", ON_DATABASE.format("temporary", "analyst")),
    Attack("creating a leaky function", LEAKY_FUNCTION, ON_DATABASE.format("temporary", "analyst")),
    Attack("taking the barrier off a view", "alter view analytics.shared_ips reset (security_barrier)", "grant transformer to analyst"),
)
def test_analyst_is_refused(masked_for_all: Database, attack: Attack) -> None:
    assert_refused(masked_for_all, "analyst", attack)
