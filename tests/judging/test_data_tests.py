"""The tests that dbt runs on the data: they pass on what the pipeline makes, and each fails on what it is for."""

import datetime as dt
import json
import re

import psycopg
import pytest

from tests.judging.conftest import GOOD, LOGIN, Warehouse
from tests.judging.test_envelopes import sns

SMALL_GROUPS = """
    create or replace view analytics.daily_logins with (security_barrier) as
    select create_date, 'locale' as dimension, false as is_rest, null::character varying as dimension_value, count(*) as logins,
        1::bigint as distinct_users
    from marts.user_logins group by create_date
"""
DAILY = "assert_every_message_is_masked_or_rejected"
COUNTS = {DAILY, "assert_every_message_of_the_last_day_is_masked_or_rejected"}
M1 = "from marts.user_logins where message_id = 'm1'"
# One statement that breaks the data, and the data tests that must say so.
FAULTS = {
    f"delete {M1}": COUNTS,
    f"insert into marts.rejected_logins select message_id, '{{ip_empty}}', sent_at, sent_at {M1}": COUNTS,
    "insert into staging.unjudged values ('nowhere', now())": {"assert_every_listed_message_has_its_body"},
    f"insert into recovery.erased_messages select message_id, sent_at {M1}": {"assert_no_erased_message_is_back"},
    # erased, and its body has come back
    f"with taken as (delete {M1} returning message_id, sent_at) insert into recovery.erased_messages select * from taken": COUNTS
    | {"assert_no_erased_message_is_back"},
    "update marts.user_logins set user_id = 'u' where message_id = 'm1'": {"assert_plain_columns_are_as_sent"},
    "update marts.user_logins set app_version_parts = null where message_id = 'm1'": {"assert_version_parts_are_the_version"},
    "update marts.user_logins set app_version_parts = '{2, 4}' where message_id = 'm1'": {"assert_version_parts_are_the_version"},
    "update marts.user_logins set masked_network = '192.0.2.0/24' where message_id = 'm1'": {
        "token_format_analytics_user_logins_masked_network"
    },
    "update marts.rejected_logins set reasons = '{ip_empty, ip_empty}'": {"names_rules_rejected_logins_reasons"},
    "update marts.rejected_logins set reasons = '{192.0.2.1}'": {"names_rules_rejected_logins_reasons"},
    # twice the same, with no locale
    "insert into reports.daily_logins select '2026-03-01', 'locale', false, null, 5, 5 from generate_series(1, 2)": {
        "one_row_per_reported_daily_logins_create_date__dimension__dimension_value__is_rest"
    },
    SMALL_GROUPS: {"assert_no_small_group_is_published"},
}
# What each fault is undone with.
TABLES = ("marts.user_logins", "marts.rejected_logins", "staging.unjudged", "recovery.erased_messages", "reports.daily_logins")


@pytest.fixture
def filled(warehouse: Warehouse) -> Warehouse:
    """Two logins from one address, one from another, and one rejected message in 30."""
    other = json.dumps(LOGIN | {"ip": "192.0.2.2", "app_version": "2.03"})
    warehouse.land({"m1": GOOD, "m2": GOOD, "other": other, "bad": "oops"} | {f"n{number}": GOOD for number in range(26)})
    warehouse.dbt("run")
    return warehouse


@pytest.mark.slow
def test_each_fault_in_the_data_fails_its_test_and_no_other(filled: Warehouse) -> None:
    filled.dbt("test")
    view = filled.database.value("select pg_get_viewdef('analytics.daily_logins'::regclass)")
    filled.database.execute(*(f"create table before_{number} as select * from {table}" for number, table in enumerate(TABLES)))
    for fault, expected in FAULTS.items():
        filled.database.execute(fault)
        filled.dbt("test", "--select", "test_type:data", code=1)
        assert {name for name, status in filled.results().items() if status in {"fail", "error"}} == expected, fault
        filled.database.execute(f"create or replace view analytics.daily_logins with (security_barrier) as {view}")
        for number, table in enumerate(TABLES):
            filled.database.execute(f"truncate {table}; insert into {table} select * from before_{number}")
    filled.dbt("test")


def test_many_rejected_messages_warn_and_more_of_them_fail(filled: Warehouse) -> None:
    for count, status, code in ((2, "warn", 0), (10, "fail", 1)):
        filled.land({f"bad{count}-{number}": "oops" for number in range(count)})
        filled.dbt("run")
        filled.dbt("test", "--select", "assert_few_messages_are_rejected", code=code)
        assert filled.results() == {"assert_few_messages_are_rejected": status}


def findings(warehouse: Warehouse, test: str, code: int = 1) -> list[str]:
    """What the data test prints of each row that it finds."""
    said = warehouse.dbt("test", "--select", test, code=code)
    return sorted(
        line for line in (re.sub("^[0-9:]+ +", "", line) for line in said.splitlines()) if "messages" in line or "times a" in line
    )


def test_a_path_that_no_policy_names_is_found_in_whatever_message_carries_it(warehouse: Warehouse) -> None:
    """A name that is a value, or that few share, is not shown; a stray among the rejected messages is none of the policy's."""
    not_taken = "\ninsert into masking.fields (path, reason) values ('app', 'nobody asks for it'), ('tags', 'free text');\n"
    warehouse.edit("database/6_fields.sql", "\nset local role pipeline_owner", not_taken + "\nset local role pipeline_owner")
    warehouse.migrate()
    known: dict[str, object] = {"app": {"build": [1, {"name": "x"}]}, "tags": ["a", "b"]}
    carried: dict[str, list[dict[str, object]]] = {
        "known": [known] * 6,
        "nested": [{"user": {"contact": {"mail": "m"}, "app.build": 1}, "visits": [{"at": 1}]}] * 6,
        "dotted": [{"tags.a": 1, "apps": 1}] * 4,
        "rejected": [{"user_id": None, "ip": {"v": "192.0.2.1"}, "device": {"192.0.2.7": 1}}] * 5,
        "stray": [{"user_id": None, "other": {"type": 1}}] * 4,
    }
    for kind, fields in carried.items():
        warehouse.land({f"{kind}{number}": json.dumps(LOGIN | {"user_id": f"u{number}"} | more) for number, more in enumerate(fields)})
    warehouse.dbt("run")

    policy = " has no masking policy: say in database/6_fields.sql what it is"
    assert findings(warehouse, "assert_every_field_has_a_masking_policy") == [
        f"19 times a message carries a field whose name may be a value, so that it is not shown; it{policy}",
        f"5 messages carry the field ip.v, and it{policy}",
        f"6 messages carry the field user.contact.mail, and it{policy}",
        f"6 messages carry the field visits[0].at, and it{policy}",
    ]


def test_personal_values_in_plain_fields_are_counted_by_day_and_column(warehouse: Warehouse) -> None:
    warehouse.edit("database/6_fields.sql", "('user_id', 'user_id', 128, true, 'reject'", "('user_id', 'user_id', 128, true, 'mask'")
    warehouse.migrate()
    now = dt.datetime.now(dt.UTC)
    days = [now - dt.timedelta(days=days) for days in (2, 1)]
    email, locale = ({"user_id": "someone@example.com"}, {"locale": "192.0.2.77", "device_type": "192.0.2.77"})
    for day, odd in zip(days, ([email, email, locale], [locale]), strict=True):
        events = [{**LOGIN, **fields} for fields in odd] + [LOGIN] * (1_200 - len(odd))
        warehouse.land({f"{day:%d}-{number}": json.dumps(event) for number, event in enumerate(events)}, day)
    warehouse.dbt("run")

    assert findings(warehouse, "assert_few_plain_fields_hold_personal_values", code=0) == [
        f"{days[0]:%Y-%m-%d}: 1 of 1,200 messages (0.1 %) hold a personal value in device_type",
        f"{days[0]:%Y-%m-%d}: 1 of 1,200 messages (0.1 %) hold a personal value in locale",
        f"{days[0]:%Y-%m-%d}: 2 of 1,200 messages (0.2 %) hold a personal value in user_id",
        f"{days[1]:%Y-%m-%d}: 1 of 1,200 messages (0.1 %) hold a personal value in device_type",
        f"{days[1]:%Y-%m-%d}: 1 of 1,200 messages (0.1 %) hold a personal value in locale",
    ]
    assert warehouse.results() == {"assert_few_plain_fields_hold_personal_values": "warn"}


def test_a_producer_of_whose_messages_hardly_one_is_right_is_named_and_nothing_of_its_values(warehouse: Warehouse) -> None:
    sent: dict[str, object] = {**LOGIN}
    bare = {key: value for key, value in sent.items() if key != "ip"}
    renamed = bare | {"address": "192.0.2.1", "192.0.2.9": 1}
    messages = {
        "renamed": [renamed] * 24,
        "nearly all": [sent | {"nearly": 1, "ip": None}] * 19 + [sent | {"nearly": 1}],
        "nine in ten": [sent | {"nine": 1, "ip": None}] * 18 + [sent | {"nine": 1}] * 2,
        "few": [sent | {"few": 1, "ip": None}] * 19,
        "good": [sent] * 400,
    }
    for kind, events in messages.items():
        warehouse.land({f"{kind}{number}": json.dumps(event) for number, event in enumerate(events)})
    warehouse.land({f"topic{number}": sns(json.dumps(bare)) for number in range(21)})
    attributes = {"MessageAttributes": {"trace_id": {"StringValue": "192.0.2.1"}, "192.0.2.9": {}}}
    warehouse.database.execute(f"update staging.raw_logins set attributes = '{json.dumps(attributes)}' where message_id ~ 'renamed'")
    warehouse.dbt("run")

    found = "messages of one sender are rejected, most often for ip_missing: "
    fields = "user_id, device_id, app_version, device_type"
    assert findings(warehouse, "assert_no_producer_fails") == [
        f"19 of 20 {found}fields ip, locale, nearly, {fields}",
        f"21 of 21 {found}in sns; SNS topic logins; fields locale, {fields}",
        f"24 of 24 {found}message attributes trace_id and 1 not shown; fields locale, address, {fields} and 1 not shown",
    ]


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


def blocks_read(warehouse: Warehouse, query: str) -> int:
    """How many blocks *query* reads, from memory or not."""
    with warehouse.database.connect("transformer", autocommit=False) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        (plans,) = connection.execute(f"explain (analyze, buffers, format json) {query}".encode()).fetchone() or ([],)
        connection.rollback()
    plan = plans[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def test_what_each_run_and_its_tests_read_does_not_grow_with_the_history(filled: Warehouse) -> None:
    """The control is the test that runs once a day."""
    filled.dbt("compile", "--selector", "each_run")
    filled.dbt("compile", "--select", DAILY)
    queries = {path.stem: path.read_text() for path in filled.target.glob("compiled/**/*.sql") if {"marts", "tests"} & {*path.parts}}
    assert len(queries) == 6, "two models, four tests"
    queries["begin_judging"] = "select staging.begin_judging()"
    filled.land({f"new{number}": GOOD for number in range(10)})
    read = []
    for first, last in ((1, 20_000), (20_001, 100_000)):
        filled.database.execute(HISTORY.format(first=first, last=last))
        read.append({name: blocks_read(filled, query) for name, query in queries.items()})

    assert {name for name in queries if not 0 < read[1][name] < 2 * read[0][name]} == {DAILY}, read


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
        warehouse.database.execute(f"update staging.raw_logins set landed_at = now() - make_interval(hours => {hours})")
        warehouse.dbt("source", "freshness", code=code)
        # those alone that say when they were loaded
        assert warehouse.results("sources") == {"raw_logins": status}
