"""dbt as its users know it: flags, other targets, packages, hooks and views of their own. Nothing is lost, and production is left alone."""

import datetime as dt
import json

import pytest

from tests.judging.conftest import GOOD, LOGIN, Places, Warehouse
from tests.support import VIEWS

pytestmark = pytest.mark.slow

MESSAGES = {"m1": GOOD, "m2": GOOD.replace("u1", "u2"), "bad": "oops"}
ENDED: Places = (["m1", "m2"], ["bad"], [])
# Every object of the database, with its owner, its grants and, where it has some, its query.
OBJECTS = """
    select relnamespace::regnamespace::text, relname::text, relkind, relowner::regrole::text, relacl::text, reloptions::text,
        case when relkind = 'v' then pg_get_viewdef(oid) end
    from pg_class where relnamespace::regnamespace::text !~ '^(pg_|information_schema|dev_)' and relname !~ '^test_' order by 1, 2
"""
MADE = "select relname::text from pg_class where relnamespace = '{}'::regnamespace and relkind in ('r', 'v') order by 1"


def assert_all_is_whole(warehouse: Warehouse) -> None:
    """Each of MESSAGES has its outcome, nothing waits, and the analysts' views show all of it."""
    assert warehouse.places() == ENDED
    assert warehouse.database.value("select count(*) from analytics.user_logins", "analyst") == 2
    assert [name for (name,) in warehouse.database.rows(MADE.format("analytics"))] == sorted(VIEWS)


def test_an_empty_run_takes_nothing_off_the_list_and_no_flag_takes_back_what_was_judged(warehouse: Warehouse) -> None:
    warehouse.land(MESSAGES)
    for command in ("run", "build"):
        warehouse.dbt(command, "--empty")
        assert warehouse.places() == ([], [], sorted(MESSAGES))

    warehouse.dbt("run")
    warehouse.database.execute("delete from staging.raw_logins")
    for flag in ("--empty", "--full-refresh"):
        warehouse.dbt("run", flag)
        warehouse.dbt("build", flag, "--exclude", "assert_few_messages_are_rejected")
        assert warehouse.places() == ENDED

    assert_all_is_whole(warehouse)


def test_a_bounded_run_takes_so_many_messages_and_the_next_runs_the_rest(warehouse: Warehouse) -> None:
    messages = {f"{kind}{number}": body for number in range(15) for kind, body in (("good", GOOD), ("bad", "oops"))}
    # a run takes messages by their time: twelve have the same one, the others each its own
    together = dict(list(messages.items())[:12])
    warehouse.land(together, dt.datetime.now(dt.UTC) - dt.timedelta(hours=1))
    for message_id in messages.keys() - together.keys():
        warehouse.land({message_id: messages[message_id]})
    refused = warehouse.dbt("run", "--selector", "each_run", "--vars", '{"max_messages_per_run": 0}', code=1)
    assert "max_messages_per_run is 0; set it to a number from 1 on" in refused
    left = [len(messages)]
    while left[-1] > 0:
        warehouse.dbt("run", "--selector", "each_run", "--vars", '{"max_messages_per_run": 10}')
        masked, rejected, waiting = warehouse.places()
        left.append(len(waiting))
        # ten a model at most, or those of one time, and at least one of the two finds some among them
        assert left[-2] - 22 <= left[-1] < left[-2]

    assert len(left) > 2
    assert sorted([*masked, *rejected]) == sorted(messages)


def test_a_development_target_builds_clones_and_defers_in_schemas_of_its_own_and_leaves_production_as_it_is(warehouse: Warehouse) -> None:
    warehouse.copy("dbt_project")  # what the other tests share was parsed for production
    warehouse.land(MESSAGES)
    warehouse.dbt("run")
    state = str(warehouse.target.rename(warehouse.directory / "state"))
    warehouse.land({"waits": GOOD})
    for schema in ("dev_marts", "dev_analytics", "dev_reports"):
        warehouse.database.execute(f"create schema {schema} authorization transformer")
    before = warehouse.database.rows(OBJECTS), warehouse.database.rows("select user_logins::text from marts.user_logins")

    warehouse.dbt("run", "--target", "dev", "--select", "analytics_user_logins", "--defer", "--state", state)
    assert "marts.user_logins" in warehouse.database.value("select pg_get_viewdef('dev_analytics.user_logins'::regclass)")
    warehouse.dbt("clone", "--target", "dev", "--state", state)
    assert warehouse.database.value("select count(*) from dev_marts.user_logins") == 2
    warehouse.dbt("clone", "--state", state)
    # production on top of itself: a table of database/ cannot be replaced
    said = warehouse.dbt("clone", "--full-refresh", "--state", state, "--select", "marts", code=1)
    assert "permission denied for schema marts" in said
    warehouse.dbt("build", "--target", "dev", "--exclude", "assert_few_messages_are_rejected")
    warehouse.dbt("run", "--target", "dev", "--full-refresh")

    assert [name for (name,) in warehouse.database.rows(MADE.format("dev_analytics"))] == sorted(VIEWS)
    assert [name for (name,) in warehouse.database.rows(MADE.format("dev_marts"))] == ["rejected_logins", "user_logins"]
    assert warehouse.database.value("select count(*) from dev_analytics.user_logins") == 3
    assert not warehouse.database.value("select has_schema_privilege('analyst', 'dev_analytics', 'usage')")
    assert (warehouse.database.rows(OBJECTS), warehouse.database.rows("select user_logins::text from marts.user_logins")) == before
    assert warehouse.places() == (["m1", "m2"], ["bad"], ["waits"])


def test_retry_does_an_operation_again_that_failed_and_not_one_that_succeeded(warehouse: Warehouse) -> None:
    warehouse.land(MESSAGES)
    warehouse.dbt("run")
    again: Places = (["m1", "m2"], [], ["bad"])
    for right, words, code, places in (
        ("grant delete on {} to", ["run-operation", "judge_again"], 0, again),
        ("grant delete on {} to", ["retry"], 0, again),
        ("grant delete on {} to", ["run"], 0, ENDED),
        ("revoke delete on {} from", ["run-operation", "judge_again"], 1, ENDED),
        ("grant delete on {} to", ["retry"], 0, again),
        ("grant delete on {} to", ["run"], 0, ENDED),
    ):
        warehouse.database.execute(right.format("marts.rejected_logins") + " transformer")
        warehouse.dbt(*words, code=code)
        assert warehouse.places() == places, words


def test_a_build_in_which_a_field_has_no_policy_records_its_rejections(warehouse: Warehouse) -> None:
    messages = {f"m{number}": json.dumps(LOGIN | {"user_id": f"u{number}", "email": "a@example.com"}) for number in range(10)}
    warehouse.land(messages | {"bad": "oops"})

    said = warehouse.dbt("build", code=1)

    assert "10 messages carry the field email, and it has no masking policy" in said
    assert warehouse.places() == (sorted(messages), ["bad"], [])


def test_a_view_whose_columns_are_not_those_of_its_contract_is_refused_and_the_one_before_stays(warehouse: Warehouse) -> None:
    warehouse.dbt("run")
    before = warehouse.database.rows(OBJECTS)
    warehouse.edit("dbt_project/models/analytics/shared_ips.sql", "count(*) as logins,", "count(*)::text as logins,")

    assert "This model has an enforced contract that failed" in warehouse.dbt("run", "--select", "shared_ips", code=1)

    assert warehouse.database.rows(OBJECTS) == before


def test_a_hook_that_fails_at_the_start_stops_the_models(warehouse: Warehouse) -> None:
    warehouse.land(MESSAGES)
    warehouse.edit("dbt_project/dbt_project.yml", "profile: user_logins\n", 'profile: user_logins\non-run-start: "select 1 / 0"\n')

    assert "division by zero" in warehouse.dbt("run", code=1)

    assert warehouse.places() == ([], [], sorted(MESSAGES))


PACKAGE = {
    "visitors/dbt_project.yml": (
        "name: visitors\nversion: 1.0.0\nmodels:\n  visitors:\n    +schema: visitors\n    visits:\n      +materialized: incremental\n"
        "      +unique_key: id\n      +grants: {select: [analyst]}\n    recent_visits:\n      +materialized: view\n"
    ),
    "visitors/models/visits.sql": "select 1 as id, 'here' as place\n",
    "visitors/models/recent_visits.sql": "select * from {{ ref('visits') }}\n",
    "dbt_project/packages.yml": "packages:\n  - local: ../visitors\n",
}


def test_a_package_with_models_and_grants_of_its_own_works_as_anywhere(warehouse: Warehouse) -> None:
    warehouse.copy("dbt_project")
    (warehouse.directory / "visitors" / "models").mkdir(parents=True)
    for name, content in PACKAGE.items():
        (warehouse.directory / name).write_text(content)
    warehouse.database.execute("create schema visitors authorization transformer", "grant usage on schema visitors to analyst")
    warehouse.land(MESSAGES)

    for command in ("deps", "run", "run"):
        warehouse.dbt(command)

    assert_all_is_whole(warehouse)
    assert warehouse.database.rows("select * from visitors.visits", "analyst") == [(1, "here")]
    options = "select reloptions from pg_class where oid in ('visitors.recent_visits'::regclass, 'analytics.user_logins'::regclass)"
    assert sorted(warehouse.database.rows(options), key=str) == [(None,), (["security_barrier=true"],)]


def test_somebodys_view_on_one_of_ours_stays_while_ours_is_the_same_and_is_never_dropped(warehouse: Warehouse) -> None:
    warehouse.dbt("run")
    warehouse.database.execute("create view public.test_busy as select * from analytics.daily_logins where logins > 1")
    changed = ("run", "--select", "daily_logins", "--vars", '{"min_group_users": 6}')

    def state() -> list[tuple[object, ...]]:
        return warehouse.database.rows(OBJECTS) + warehouse.database.rows("select pg_get_viewdef('public.test_busy'::regclass)")

    before = state()
    warehouse.dbt("run")
    assert state() == before

    said = warehouse.dbt(*changed, code=1)
    assert '"analytics"."daily_logins" was not replaced' in said
    assert "test_busy" in said
    assert state() == before

    warehouse.database.execute("drop view public.test_busy")
    warehouse.dbt(*changed)
    assert warehouse.database.rows(OBJECTS) != before[:-1]


# By view: what somebody does to it by hand.
CHANGES = {
    "daily_logins": "alter view {view} reset (security_barrier); revoke select on {view} from analyst",
    "daily_reconciliation": "create or replace view {view} with (security_barrier) as select {columns} where false",
    "shared_devices": "drop view {view}",
    "shared_ips": "drop view {view}; create table {view} as select {columns}",
    "user_logins": (
        "grant select on {view} to loader, public; grant update on {view} to analyst; "
        "grant select on {view} to analyst with grant option; set role analyst; grant select on {view} to pii_approver"
    ),
}


def test_views_that_were_changed_by_hand_are_put_right(warehouse: Warehouse) -> None:
    warehouse.dbt("run")
    before = warehouse.database.rows(OBJECTS)
    for name, change in CHANGES.items():
        view = f"analytics.{name}"
        columns = warehouse.database.value(
            "select string_agg(format('null::%s as %I', format_type(atttypid, atttypmod), attname), ', ' order by attnum) "
            f"from pg_attribute where attrelid = '{view}'::regclass"
        )
        warehouse.database.execute(f"set role transformer; {change.format(view=view, columns=columns)}; set role transformer")
    changed = warehouse.database.rows(OBJECTS)
    assert {row[1] for row in before if row[:2] in {("analytics", name) for name in CHANGES} and row not in changed} == set(CHANGES)

    warehouse.dbt("run")

    assert warehouse.database.rows(OBJECTS) == before


def test_a_view_with_a_reader_is_given_up_after_a_while_and_the_messages_are_judged(warehouse: Warehouse) -> None:
    """A reader that stays in a transaction must not make everyone who comes to read wait behind dbt."""
    warehouse.dbt("run")
    warehouse.land(MESSAGES)
    with warehouse.database.connect("analyst", autocommit=False) as reader:
        reader.execute("select count(*) from analytics.daily_logins")

        assert "canceling statement due to lock timeout" in warehouse.dbt("run", code=1)

        assert_all_is_whole(warehouse)
        reader.rollback()
    warehouse.dbt("run")


def test_no_table_in_the_search_path_is_taken_for_the_pipelines_own(warehouse: Warehouse) -> None:
    warehouse.dbt("run")
    warehouse.database.execute(
        "create table public.unjudged (message_id text, sent_at timestamptz)",
        f"alter role transformer in database {warehouse.database.name} set search_path = public, marts, pg_temp",
    )
    warehouse.land(MESSAGES)

    warehouse.dbt("run")

    assert_all_is_whole(warehouse)
