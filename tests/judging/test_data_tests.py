"""The tests that dbt runs on the data: they pass on what the pipeline makes, and each fails on what it is for."""

import json

import pytest

from tests.judging.conftest import Warehouse
from tests.judging.test_judging_again import GOOD, LOGIN

# One statement that breaks the data, and the data tests that must say so.
FAULTS = {
    "a message lost": (
        "delete from marts.user_logins where message_id = 'm1'",
        {"assert_every_message_is_masked_or_rejected", "assert_every_message_of_the_last_day_is_masked_or_rejected"},
    ),
    "a message in both tables": (
        (
            "insert into marts.rejected_logins select message_id, '{ip_missing}', sent_at, sent_at, landed_xid from marts.user_logins "
            "where message_id = 'm1'"
        ),
        {"assert_every_message_is_masked_or_rejected", "assert_every_message_of_the_last_day_is_masked_or_rejected"},
    ),
    "two tokens of one address": (
        "update marts.user_logins set masked_ip = 'v1:00000000000000000000000000000000' where message_id = 'm1'",
        {"assert_one_address_has_one_token"},
    ),
    "one token of two addresses": (
        (
            "update marts.user_logins set masked_ip = (select masked_ip from marts.user_logins where message_id = 'm1') "
            "where message_id in ('m1', 'm2', 'other')"
        ),
        {"assert_one_address_has_one_token"},
    ),
    "a plain address": (
        "update marts.user_logins set masked_ip = '192.0.2.1' where message_id in ('m1', 'm2')",
        {"token_format_analytics_user_logins_masked_ip", "token_format_shared_ips_masked_ip"},
    ),
    "parts of another version": (
        "update marts.user_logins set app_version_parts = '{2,30}' where message_id = 'm1'",
        {"assert_version_parts_are_the_version"},
    ),
    "no parts": (
        "update marts.user_logins set app_version_parts = null where message_id = 'm1'",
        {"assert_version_parts_are_the_version"},
    ),
    "a reason that is no rule's": (
        "update marts.rejected_logins set reasons = '{\"192.0.2.1 is wrong\"}' where message_id = 'bad'",
        {"names_rules_rejected_logins_reasons"},
    ),
    "a message twice": (
        (
            "alter table marts.user_logins drop constraint user_logins_pkey; "
            "insert into marts.user_logins select * from marts.user_logins where message_id = 'm1'"
        ),
        {"unique_user_logins_message_id"},
    ),
}


@pytest.fixture
def filled(warehouse: Warehouse) -> Warehouse:
    """Two logins from one address, one from another, and one rejected message in 30."""
    other = json.dumps(LOGIN | {"ip": "192.0.2.2", "app_version": "2.03"})
    warehouse.land({"m1": GOOD, "m2": GOOD, "other": other, "bad": "oops"} | {f"n{number}": GOOD for number in range(26)})
    warehouse.dbt("run")
    return warehouse


def test_each_fault_in_the_data_fails_its_test_and_no_other(filled: Warehouse) -> None:
    filled.dbt("test")
    for fault, (statement, expected) in FAULTS.items():
        with filled.database.connect() as connection:
            connection.execute("create table before as select * from marts.user_logins")
            connection.execute("create table rejected_before as select * from marts.rejected_logins")
            connection.execute(statement.encode())
        filled.dbt("test", "--select", "test_type:data", code=1)
        with filled.database.connect() as connection:
            connection.execute("truncate marts.user_logins, marts.rejected_logins")
            connection.execute("insert into marts.user_logins select * from before; drop table before")
            connection.execute("insert into marts.rejected_logins select * from rejected_before; drop table rejected_before")
        assert failed(filled) == expected, fault


def test_many_rejected_messages_warn_and_more_of_them_fail(filled: Warehouse) -> None:
    filled.land({f"bad{number}": "oops" for number in range(2)})
    filled.dbt("run")
    filled.dbt("test", "--select", "assert_few_messages_are_rejected")
    assert statuses(filled) == {"assert_few_messages_are_rejected": "warn"}

    filled.land({f"worse{number}": "oops" for number in range(10)})
    filled.dbt("run")
    filled.dbt("test", "--select", "assert_few_messages_are_rejected", code=1)
    assert statuses(filled) == {"assert_few_messages_are_rejected": "fail"}


def test_a_transaction_that_holds_messages_back_is_a_warning_that_names_it(filled: Warehouse) -> None:
    test = "assert_no_transaction_holds_the_window_back"
    with filled.database.connect(autocommit=False) as forgotten:
        forgotten.execute("select pg_current_xact_id()")
        filled.land({"held back": GOOD})
        with filled.database.connect() as connection:
            filled.dbt("test", "--select", test)
            assert statuses(filled) == {test: "pass"}
            connection.execute("update staging.raw_logins set landed_at = now() - interval '16 minutes' where message_id = 'held back'")
        filled.dbt("test", "--select", test)
        assert statuses(filled) == {test: "warn"}
        compiled = next(filled.outputs()[-1].parent.glob(f"target/compiled/**/{test}.sql")).read_text()
        assert [(row[1], row[3]) for row in filled.database.rows(compiled, "transformer")] == [(1, forgotten.info.backend_pid)]
        forgotten.rollback()
    filled.dbt("run")
    filled.dbt("test", "--select", test)
    assert statuses(filled) == {test: "pass"}


def statuses(warehouse: Warehouse) -> dict[str, str]:
    """What the last `dbt test` found, by the tests' names."""
    results = json.loads((warehouse.outputs()[-1].parent / "target" / "run_results.json").read_text())["results"]
    return {result["unique_id"].split(".")[2]: result["status"] for result in results if result["unique_id"].startswith("test.")}


def failed(warehouse: Warehouse) -> set[str]:
    """The data tests that failed."""
    return {name for name, status in statuses(warehouse).items() if status in ("fail", "error")}


HISTORY = """
    select staging.ensure_partitions(array[(now() at time zone 'UTC')::date - 10]);
    insert into staging.raw_logins (message_id, sent_at, body, landed_xid)
    select 'old' || number, now() - interval '10 days', '{{}}', '3' from generate_series({first}, {last}) as number;
    insert into marts.rejected_logins
    select 'old' || number, '{{ip_missing}}', sent_at, landed_at, '3'
    from marts.rejected_logins, generate_series({first}, {last}, 10) as number where message_id = 'bad';
    insert into marts.user_logins (user_id, device_type, masked_ip, masked_device_id, app_version, create_date, ip_is_valid, message_id,
        sent_at, landed_xid)
    select user_id, device_type, masked_ip, masked_device_id, app_version, create_date - 10, ip_is_valid, 'old' || number, sent_at, '3'
    from marts.user_logins, generate_series({first}, {last}) as number where message_id = 'm1' and number % 10 <> 1;
    analyze
"""


def test_the_tests_after_each_run_read_as_much_whatever_the_history(filled: Warehouse) -> None:
    daily = "assert_every_message_is_masked_or_rejected"
    filled.dbt("compile", "--selector", "after_each_run")
    compiled = {path.stem: path.read_text() for path in filled.outputs()[-1].parent.glob("target/compiled/**/assert_*.sql")}
    filled.dbt("compile", "--select", daily)
    compiled[daily] = next(filled.outputs()[-1].parent.glob(f"target/compiled/**/{daily}.sql")).read_text()
    assert len(compiled) == 4

    with filled.database.connect() as connection:
        connection.execute(HISTORY.format(first=1, last=2_000).encode())
        before = {name: blocks_read(filled, query) for name, query in compiled.items()}
        connection.execute(HISTORY.format(first=2_001, last=40_000).encode())
        after = {name: blocks_read(filled, query) for name, query in compiled.items()}

    grown = {name for name in compiled if after[name] > 2 * before[name]}
    assert grown == {daily}, (before, after)


def test_a_run_reads_as_much_whatever_the_history(filled: Warehouse) -> None:
    models = ("user_logins", "rejected_logins")
    filled.dbt("compile", "--select", *models)
    compiled = {model: next(filled.outputs()[-1].parent.glob(f"target/compiled/**/{model}.sql")).read_text() for model in models}
    through_it_all = "select count(masked_ip) from marts.user_logins"
    filled.land({f"new{number}": GOOD for number in range(10)})
    read: list[dict[str, int]] = []
    for first, last in ((1, 20_000), (20_001, 100_000)):
        with filled.database.connect() as connection:
            connection.execute(HISTORY.format(first=first, last=last).encode())
        read.append({model: blocks_read(filled, query, window_of=model) for model, query in compiled.items()})
        read[-1]["control"] = blocks_read(filled, through_it_all)

    assert read[1]["control"] > 2 * read[0]["control"]
    assert all(0 < read[1][model] < 2 * read[0][model] for model in models), read


def test_every_data_test_is_in_one_schedule(warehouse: Warehouse) -> None:
    every, often, daily = (
        set(warehouse.dbt("--quiet", "ls", "--resource-type", "test", "--output", "name", *selection).splitlines())
        for selection in ([], ["--selector", "after_each_run"], ["--selector", "once_a_day"])
    )

    assert often
    assert often | daily == every
    assert often & daily == set()


def test_old_messages_make_the_source_stale(warehouse: Warehouse) -> None:
    warehouse.land({"m1": GOOD})
    for hours, status, code in ((0, "pass", 0), (25, "warn", 0), (73, "error", 1)):
        with warehouse.database.connect() as connection:
            connection.execute("update staging.raw_logins set landed_at = now() - make_interval(hours => %s)", [hours])
        warehouse.dbt("source", "freshness", code=code)
        results = json.loads((warehouse.outputs()[-1].parent / "target" / "sources.json").read_text())["results"]
        # those alone that say when they were loaded
        assert [(result["unique_id"], result["status"]) for result in results] == [("source.user_logins.staging.raw_logins", status)]


def blocks_read(warehouse: Warehouse, query: str, window_of: str | None = None) -> int:
    """How many blocks *query* reads, from memory or not, where a window is open for the model *window_of*."""
    with warehouse.database.connect("transformer", autocommit=False) as connection:
        connection.execute("select staging.open_window(%s)", [window_of or "none"])
        (plans,) = connection.execute(f"explain (analyze, buffers, format json) {query}".encode()).fetchone() or ([],)
        connection.rollback()
    plan = plans[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
