"""The tests that dbt runs on the data: they pass on what the pipeline makes, and each fails on what it is for."""

import json

import psycopg
import pytest

from tests.judging.conftest import GOOD, LOGIN, Warehouse

SMALL_GROUPS = """
    create or replace view analytics.daily_logins with (security_barrier) as
    select create_date, 'locale' as dimension, false as is_rest, null::character varying as dimension_value, count(*) as logins,
        1::bigint as distinct_users
    from marts.user_logins group by create_date
"""
# One statement that breaks the data, and the data tests that must say so.
FAULTS = {
    "a message lost": (
        "delete from marts.user_logins where message_id = 'm1'",
        {"assert_every_message_is_masked_or_rejected", "assert_every_message_of_the_last_day_is_masked_or_rejected"},
    ),
    "a message in both tables": (
        "insert into marts.rejected_logins select message_id, '{ip_empty}', sent_at, now() from marts.user_logins where message_id = 'm1'",
        {"assert_every_message_is_masked_or_rejected", "assert_every_message_of_the_last_day_is_masked_or_rejected"},
    ),
    "a message that waits and has no body": (
        "insert into staging.unjudged values ('nowhere', now())",
        {"assert_every_listed_message_has_its_body"},
    ),
    "an erased message that is back": (
        "insert into recovery.erased_messages select message_id, sent_at from marts.user_logins where message_id = 'm1'",
        {"assert_no_erased_message_is_back"},
    ),
    "a value that was cut": (
        "update marts.user_logins set user_id = 'u' where message_id = 'm1'",
        {"assert_plain_columns_are_as_sent"},
    ),
    "a group too small to show": (SMALL_GROUPS, {"assert_no_small_group_is_published"}),
}
# What each fault is undone with.
TABLES = ("marts.user_logins", "marts.rejected_logins", "staging.unjudged", "recovery.erased_messages")


@pytest.fixture
def filled(warehouse: Warehouse) -> Warehouse:
    """Two logins from one address, one from another, and one rejected message in 30."""
    other = json.dumps(LOGIN | {"ip": "192.0.2.2", "app_version": "2.03"})
    warehouse.land({"m1": GOOD, "m2": GOOD, "other": other, "bad": "oops"} | {f"n{number}": GOOD for number in range(26)})
    warehouse.dbt("run")
    return warehouse


def test_each_fault_in_the_data_fails_its_test_and_no_other(filled: Warehouse) -> None:
    filled.dbt("test")
    view = filled.database.value("select pg_get_viewdef('analytics.daily_logins'::regclass)")
    filled.execute(*(f"create table before_{number} as select * from {table}" for number, table in enumerate(TABLES)))
    for fault, (statement, expected) in FAULTS.items():
        filled.execute(statement)
        filled.dbt("test", "--select", "test_type:data", code=1)
        assert failed(filled) == expected, fault
        filled.execute(f"create or replace view analytics.daily_logins with (security_barrier) as {view}")
        for number, table in enumerate(TABLES):
            filled.execute(f"truncate {table}; insert into {table} select * from before_{number}")
    filled.dbt("test")


def test_many_rejected_messages_warn_and_more_of_them_fail(filled: Warehouse) -> None:
    filled.land({f"bad{number}": "oops" for number in range(2)})
    filled.dbt("run")
    filled.dbt("test", "--select", "assert_few_messages_are_rejected")
    assert statuses(filled) == {"assert_few_messages_are_rejected": "warn"}

    filled.land({f"worse{number}": "oops" for number in range(10)})
    filled.dbt("run")
    filled.dbt("test", "--select", "assert_few_messages_are_rejected", code=1)
    assert statuses(filled) == {"assert_few_messages_are_rejected": "fail"}


def statuses(warehouse: Warehouse) -> dict[str, str]:
    """What the last `dbt test` found, by the tests' names."""
    results = json.loads((warehouse.outputs()[-1].parent / "target" / "run_results.json").read_text())["results"]
    return {result["unique_id"].split(".")[2]: result["status"] for result in results if result["unique_id"].startswith("test.")}


def failed(warehouse: Warehouse) -> set[str]:
    """The data tests that failed."""
    return {name for name, status in statuses(warehouse).items() if status in ("fail", "error")}


HISTORY = """
    begin isolation level repeatable read;
    select staging.ensure_partitions(array[(now() at time zone 'UTC')::date - 10]);
    insert into staging.raw_logins (message_id, sent_at, body)
    select 'old' || number, now() - interval '10 days', '{{}}' from generate_series({first}, {last}) as number;
    insert into staging.unjudged values ('for the partitions', now() - interval '10 days');
    select staging.begin_judging();
    delete from staging.unjudged where message_id = 'for the partitions';
    insert into marts.rejected_logins
    select 'old' || number, '{{ip_missing}}', now() - interval '10 days', now() from generate_series({first}, {last}, 10) as number;
    insert into marts.user_logins (user_id, device_type, masked_ip, masked_device_id, app_version, create_date, ip_is_valid, message_id,
        sent_at)
    select user_id, device_type, masked_ip, masked_device_id, app_version, create_date - 10, ip_is_valid, 'old' || number,
        now() - interval '10 days'
    from marts.user_logins, generate_series({first}, {last}) as number where message_id = 'm1' and number % 10 <> 1;
    commit;
    analyze
"""


def test_the_tests_of_each_run_read_as_much_whatever_the_history(filled: Warehouse) -> None:
    daily = "assert_every_message_is_masked_or_rejected"
    filled.dbt("compile", "--selector", "each_run")
    compiled = {path.stem: path.read_text() for path in filled.outputs()[-1].parent.glob("target/compiled/**/assert_*.sql")}
    filled.dbt("compile", "--select", daily)
    compiled[daily] = next(filled.outputs()[-1].parent.glob(f"target/compiled/**/{daily}.sql")).read_text()
    assert len(compiled) == 4

    read = []
    for first, last in ((1, 2_000), (2_001, 40_000)):
        filled.execute(HISTORY.format(first=first, last=last))
        read.append({name: blocks_read(filled, query) for name, query in compiled.items()})

    grown = {name for name in compiled if read[1][name] > 2 * read[0][name]}
    assert grown == {daily}, read


def test_a_run_reads_as_much_whatever_the_history(filled: Warehouse) -> None:
    models = ("user_logins", "rejected_logins")
    filled.dbt("compile", "--select", *models)
    compiled = {model: next(filled.outputs()[-1].parent.glob(f"target/compiled/**/{model}.sql")).read_text() for model in models}
    compiled["begin_judging"] = "select staging.begin_judging()"
    filled.land({f"new{number}": GOOD for number in range(10)})
    read: list[dict[str, int]] = []
    for first, last in ((1, 20_000), (20_001, 100_000)):
        filled.execute(HISTORY.format(first=first, last=last))
        read.append({name: blocks_read(filled, query) for name, query in compiled.items()})
        read[-1]["control"] = blocks_read(filled, "select count(masked_ip) from marts.user_logins")

    assert read[1]["control"] > 2 * read[0]["control"]
    assert all(0 < read[1][name] < 2 * read[0][name] for name in compiled), read


def test_every_data_test_is_in_one_schedule(warehouse: Warehouse) -> None:
    every, often, daily = (
        set(warehouse.dbt("--quiet", "ls", "--resource-type", "test", "--output", "name", *selection).splitlines())
        for selection in ([], ["--selector", "each_run"], ["--selector", "rest"])
    )

    assert often
    assert often | daily == every
    assert often & daily == set()


def test_old_messages_make_the_source_stale(warehouse: Warehouse) -> None:
    warehouse.land({"m1": GOOD})
    for hours, status, code in ((0, "pass", 0), (25, "warn", 0), (73, "error", 1)):
        warehouse.execute(f"update staging.raw_logins set landed_at = now() - make_interval(hours => {hours})")
        warehouse.dbt("source", "freshness", code=code)
        results = json.loads((warehouse.outputs()[-1].parent / "target" / "sources.json").read_text())["results"]
        # those alone that say when they were loaded
        assert [(result["unique_id"], result["status"]) for result in results] == [("source.user_logins.staging.raw_logins", status)]


def blocks_read(warehouse: Warehouse, query: str) -> int:
    """How many blocks *query* reads, from memory or not."""
    with warehouse.database.connect("transformer", autocommit=False) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        (plans,) = connection.execute(f"explain (analyze, buffers, format json) {query}".encode()).fetchone() or ([],)
        connection.rollback()
    plan = plans[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
