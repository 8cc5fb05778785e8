"""dbt as its users know it: flags, other targets, packages, hooks and views of their own. Nothing is lost, and production is left alone."""

import json

import pytest

from tests.judging.conftest import GOOD, LOGIN, Project, Warehouse

pytestmark = pytest.mark.slow

MESSAGES = {"m1": GOOD, "m2": GOOD.replace("u1", "u2"), "bad": "oops"}
VIEWS = ["daily_logins", "daily_reconciliation", "shared_devices", "shared_ips", "user_logins"]
# Every object of the database, with its owner, its grants and, where it has some, its query.
OBJECTS = """
    select relnamespace::regnamespace::text, relname, relkind, relowner::regrole::text, relacl::text, reloptions::text,
        case when relkind = 'v' then pg_get_viewdef(oid) end
    from pg_class where relnamespace::regnamespace::text !~ '^(pg_|information_schema)' and relname !~ '^test_' order by 1, 2
"""


def assert_all_is_whole(warehouse: Warehouse) -> None:
    """Each of MESSAGES has its outcome, nothing waits, and the analysts' views show all of it."""
    assert (warehouse.masked(), list(warehouse.rejected()), warehouse.waiting()) == (["m1", "m2"], ["bad"], [])
    assert warehouse.database.value("select count(*) from analytics.user_logins", "analyst") == 2
    views = "select table_name::text from information_schema.views where table_schema = 'analytics' order by 1"
    assert [name for (name,) in warehouse.database.rows(views)] == VIEWS


@pytest.mark.parametrize("commands", [(["run", "--empty"],), (["build", "--empty"],), (["run"], ["run", "--empty"], ["build", "--empty"])])
def test_an_empty_run_takes_nothing_off_the_list_and_the_next_run_makes_all_whole(warehouse: Warehouse, commands: tuple[list[str]]) -> None:
    warehouse.land(MESSAGES)
    for words in commands:
        warehouse.dbt(*words)
    if len(commands) == 1:
        assert warehouse.waiting() == sorted(MESSAGES)

    warehouse.dbt("run")

    assert_all_is_whole(warehouse)


def test_a_full_refresh_keeps_what_has_no_raw_message_any_more(warehouse: Warehouse) -> None:
    warehouse.land(MESSAGES)
    warehouse.dbt("run")
    warehouse.execute("delete from staging.raw_logins")

    warehouse.dbt("run", "--full-refresh")
    warehouse.dbt("build", "--full-refresh", "--exclude", "assert_few_messages_are_rejected")

    assert_all_is_whole(warehouse)


def test_a_bounded_run_takes_so_many_messages_and_the_next_runs_the_rest(warehouse: Warehouse) -> None:
    bound = ("--vars", '{"max_messages_per_run": 10}')
    messages = {f"{kind}{number}": body for number in range(15) for kind, body in (("good", GOOD), ("bad", "oops"))}
    for message_id, body in messages.items():  # a run takes messages by their time: each has its own
        warehouse.land({message_id: body})
    left = [len(messages)]
    while left[-1] > 0:
        warehouse.dbt("run", "--selector", "each_run", *bound)
        left.append(len(warehouse.waiting()))
        # ten a model at most, and at least one of the two finds some among its ten
        assert left[-2] - 20 <= left[-1] < left[-2]

    assert len(left) > 2
    assert list(warehouse.outcomes()) == sorted(messages)


def test_a_development_target_builds_in_schemas_of_its_own_and_leaves_production_as_it_is(project: Project) -> None:
    warehouse = project.warehouse
    warehouse.land(MESSAGES)
    warehouse.dbt("run")
    warehouse.land({"waits": GOOD})
    for schema in ("dev_marts", "dev_analytics"):
        warehouse.execute(f"create schema {schema} authorization transformer")
    rows = "select user_logins::text from marts.user_logins union all select rejected_logins::text from marts.rejected_logins order by 1"
    before = warehouse.database.rows(OBJECTS), warehouse.database.rows(rows), warehouse.waiting()

    project.dbt("build", "--target", "dev", "--exclude", "assert_few_messages_are_rejected")
    project.dbt("run", "--target", "dev", "--full-refresh")

    ours = [row for row in warehouse.database.rows(OBJECTS) if not row[0].startswith("dev_")]
    assert (ours, warehouse.database.rows(rows), warehouse.waiting()) == before
    made = "select relname::text from pg_class where relnamespace = 'dev_{}'::regnamespace and relkind in ('r', 'v') order by 1"
    assert [name for (name,) in warehouse.database.rows(made.format("analytics"))] == VIEWS
    assert [name for (name,) in warehouse.database.rows(made.format("marts"))] == ["rejected_logins", "user_logins"]
    assert warehouse.database.value("select count(*) from dev_analytics.user_logins") == 3
    assert not warehouse.database.value("select has_schema_privilege('analyst', 'dev_analytics', 'usage')")


@pytest.mark.slow
def test_clone_and_defer_make_a_development_target_of_productions_state(project: Project) -> None:
    warehouse = project.warehouse
    warehouse.land(MESSAGES)
    project.dbt("run")
    state = project.path / "state"
    (project.path / "target").rename(state)
    for schema in ("dev_marts", "dev_analytics"):
        warehouse.execute(f"create schema {schema} authorization transformer")
    before = warehouse.database.rows(OBJECTS)

    project.dbt("run", "--target", "dev", "--select", "analytics_user_logins", "--defer", "--state", str(state))
    assert "marts.user_logins" in warehouse.database.value("select pg_get_viewdef('dev_analytics.user_logins'::regclass)")
    project.dbt("clone", "--target", "dev", "--state", str(state))
    assert warehouse.database.value("select count(*) from dev_marts.user_logins") == 2
    project.dbt("clone", "--state", str(state))
    # production on top of itself: a table of database/ cannot be replaced
    assert "permission denied for schema marts" in project.dbt(
        "clone", "--full-refresh", "--state", str(state), "--select", "marts", code=1
    )

    assert [row for row in warehouse.database.rows(OBJECTS) if not row[0].startswith("dev_")] == before
    assert_all_is_whole(warehouse)


@pytest.mark.slow
def test_retry_does_an_operation_again_that_failed_and_not_one_that_succeeded(project: Project) -> None:
    warehouse = project.warehouse
    warehouse.land(MESSAGES)
    warehouse.dbt("run")
    project.dbt("run-operation", "judge_again")
    project.dbt("retry")
    assert (list(warehouse.rejected()), warehouse.waiting()) == ([], ["bad"])
    warehouse.dbt("run")
    warehouse.execute("revoke delete on marts.rejected_logins from transformer")
    project.dbt("run-operation", "judge_again", code=1)
    warehouse.execute("grant delete on marts.rejected_logins to transformer")
    assert list(warehouse.rejected()) == ["bad"]

    project.dbt("retry")
    assert (list(warehouse.rejected()), warehouse.waiting()) == ([], ["bad"])
    warehouse.dbt("run")

    assert_all_is_whole(warehouse)


def test_a_build_in_which_a_field_has_no_policy_records_its_rejections(warehouse: Warehouse) -> None:
    messages = {f"m{number}": json.dumps(LOGIN | {"user_id": f"u{number}", "email": "a@example.com"}) for number in range(10)}
    warehouse.land(messages | {"bad": "oops"})

    said = warehouse.dbt("build", code=1)

    assert "10 logins carry the field email, and it has no masking policy" in said
    assert (warehouse.masked(), list(warehouse.rejected()), warehouse.waiting()) == (sorted(messages), ["bad"], [])


def test_a_hook_that_fails_at_the_start_stops_the_models(project: Project) -> None:
    warehouse = project.warehouse
    warehouse.land(MESSAGES)
    with (project.path / "dbt_project" / "dbt_project.yml").open("a") as file:
        file.write('\non-run-start: "select 1 / 0"\n')

    assert "division by zero" in project.dbt("run", code=1)

    assert (warehouse.outcomes(), warehouse.waiting()) == ([], sorted(MESSAGES))


PACKAGE = {
    "dbt_project.yml": (
        "name: visitors\nversion: 1.0.0\nmodels:\n  visitors:\n    +schema: visitors\n    visits:\n      +materialized: incremental\n"
        "      +unique_key: id\n      +grants: {select: [analyst]}\n    recent_visits:\n      +materialized: view\n"
    ),
    "models/visits.sql": "select 1 as id, 'here' as place\n",
    "models/recent_visits.sql": "select * from {{ ref('visits') }}\n",
}


@pytest.mark.slow
def test_a_package_with_models_and_grants_of_its_own_works_as_anywhere(project: Project) -> None:
    for name, content in PACKAGE.items():
        path = project.path / "visitors" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (project.path / "dbt_project" / "packages.yml").write_text("packages:\n  - local: ../visitors\n")
    warehouse = project.warehouse
    warehouse.execute("create schema visitors authorization transformer", "grant usage on schema visitors to analyst")
    warehouse.land(MESSAGES)
    project.dbt("deps")

    for _ in range(2):
        project.dbt("run")

    assert_all_is_whole(warehouse)
    assert warehouse.database.rows("select * from visitors.visits", "analyst") == [(1, "here")]
    options = "select reloptions from pg_class where oid in ('visitors.recent_visits'::regclass, 'analytics.user_logins'::regclass)"
    assert sorted(warehouse.database.rows(options), key=str) == [(None,), (["security_barrier=true"],)]


def test_somebodys_view_on_one_of_ours_stays_while_ours_is_the_same_and_is_never_dropped(warehouse: Warehouse) -> None:
    warehouse.dbt("run")
    warehouse.execute("create view public.test_busy as select * from analytics.daily_logins where logins > 1")
    theirs = "select pg_get_viewdef('public.test_busy'::regclass)"
    before = warehouse.database.rows(OBJECTS), warehouse.database.value(theirs)

    warehouse.dbt("run")
    assert (warehouse.database.rows(OBJECTS), warehouse.database.value(theirs)) == before

    said = warehouse.dbt("run", "--vars", '{"min_group_users": 6}', code=1)
    assert '"analytics"."daily_logins" was not replaced' in said
    assert "test_busy" in said
    assert (warehouse.database.rows(OBJECTS), warehouse.database.value(theirs)) == before

    warehouse.execute("drop view public.test_busy")
    warehouse.dbt("run", "--vars", '{"min_group_users": 6}')
    assert warehouse.database.rows(OBJECTS) != before[0]


CHANGES = [
    "alter view analytics.daily_logins reset (security_barrier)",
    "create or replace view analytics.daily_logins with (security_barrier) as select {columns} from marts.user_logins where false",
    "drop view analytics.daily_logins",
    "drop view analytics.daily_logins; create table analytics.daily_logins as select {columns}",
    "grant select on analytics.daily_logins to loader",
    "grant select on analytics.daily_logins to public",
    "grant update on analytics.daily_logins to analyst",
    (
        "grant select on analytics.daily_logins to analyst with grant option; "
        "set role analyst; grant select on analytics.daily_logins to loader"
    ),
    "revoke select on analytics.daily_logins from analyst",
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_view_that_was_changed_by_hand_is_put_right(warehouse: Warehouse, change: str) -> None:
    warehouse.dbt("run")
    before = warehouse.database.rows(OBJECTS)
    columns = warehouse.database.value(
        "select string_agg(format('null::%s as %I', format_type(atttypid, atttypmod), attname), ', ' order by attnum) "
        "from pg_attribute where attrelid = 'analytics.daily_logins'::regclass"
    )
    warehouse.execute(f"set role transformer; {change.format(columns=columns)}")
    assert warehouse.database.rows(OBJECTS) != before

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
    warehouse.execute(
        "create table public.unjudged (message_id text, sent_at timestamptz)",
        f"alter role transformer in database {warehouse.database.name} set search_path = public, marts, pg_temp",
    )
    warehouse.land(MESSAGES)

    warehouse.dbt("run")

    assert_all_is_whole(warehouse)
