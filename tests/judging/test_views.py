"""What the views say of time and freshness."""

import datetime as dt
import json

import pytest

from tests.judging.conftest import GOOD, LOGIN, Warehouse

SENT_AT = dt.datetime(2026, 3, 1, 12, 34, 56, 789000, tzinfo=dt.UTC)
# every column of a view that holds a login's time
TIMES = """
    select sent_at from analytics.user_logins
    union all select unnest(array[first_login_at, last_login_at]) from analytics.user_activity
    union all select unnest(array[first_login_at, last_login_at]) from analytics.version_sessions
    union all select unnest(array[newest_login_at, oldest_waiting_at]) from analytics.freshness
"""


def times(warehouse: Warehouse) -> set[str]:
    with warehouse.database.connect("analyst") as connection:
        # where a truncated hour would be another one than in UTC
        connection.execute("set timezone = 'Asia/Kolkata'")
        return {row[0].astimezone(dt.UTC).isoformat(timespec="milliseconds") for row in connection.execute(TIMES.encode())}


@pytest.mark.slow
def test_a_logins_time_is_shown_as_precisely_as_is_set(warehouse: Warehouse) -> None:
    warehouse.land({"masked": GOOD}, SENT_AT)
    warehouse.dbt("run")
    warehouse.land({"waiting": GOOD}, SENT_AT)
    assert times(warehouse) == {"2026-03-01T12:34:56.789+00:00"}
    for precision, shown in {"minute": "2026-03-01T12:34:00.000+00:00", "hour": "2026-03-01T12:00:00.000+00:00"}.items():
        warehouse.dbt("run", "--select", "analytics", "--vars", f"sent_at_precision: {precision}")
        assert times(warehouse) == {shown}
    said = warehouse.dbt("run", "--select", "analytics", "--vars", "sent_at_precision: day", code=1)
    assert "sent_at_precision is day; set it to milliseconds, minute or hour" in said


def test_an_analyst_sees_these_columns_of_a_login(warehouse: Warehouse) -> None:
    warehouse.dbt("run")
    with warehouse.database.connect("analyst") as connection:
        shown = connection.execute("select * from analytics.user_logins").description or ()
    assert " ".join(column.name for column in shown) == (
        "user_id device_type masked_ip masked_device_id locale app_version create_date"
        " ip_is_valid masked_network ip_country ip_asn app_version_parts login_id sent_at"
    )


def test_a_logins_id_is_its_own_and_no_messages(warehouse: Warehouse) -> None:
    database = warehouse.database
    warehouse.land({"m1": GOOD, "m2": GOOD})
    warehouse.dbt("run")
    assert database.value("select attnotnull from pg_attribute where attrelid = 'marts.user_logins'::regclass and attname = 'login_id'")
    shown = "select login_id from analytics.user_logins"
    ids = set(database.rows(shown, "analyst"))
    assert len(ids) == 2
    database.rows("select recovery.rotate()", "privacy_officer")
    warehouse.land({"m3": GOOD})
    warehouse.dbt("run")
    assert ids < set(database.rows(shown, "analyst"))


def test_freshness_says_what_is_there_and_what_waits(warehouse: Warehouse) -> None:
    database = warehouse.database
    freshness = "select newest_login_at, last_run_at is not null, waiting, oldest_waiting_at, rejected_today from analytics.freshness"
    warehouse.dbt("run")
    assert database.rows(freshness, "analyst") == [(None, True, 0, None, 0)]

    began = database.value("select clock_timestamp()")
    warehouse.land({"old": GOOD, "older rejected": "oops"}, SENT_AT)
    warehouse.land({"rejected today": json.dumps(LOGIN | {"ip": None})})
    warehouse.dbt("run")
    warehouse.land({"waiting": GOOD}, SENT_AT + dt.timedelta(days=1))
    assert database.rows(freshness, "analyst") == [(SENT_AT, True, 1, SENT_AT + dt.timedelta(days=1), 1)]
    assert database.value("select last_run_at from analytics.freshness", "analyst") > began

    # a run is none if one of its models fails
    for model in ("user_logins", "rejected_logins"):
        began = database.value("select clock_timestamp()")
        database.execute(f"revoke insert on marts.{model} from transformer")
        warehouse.dbt("run", code=1)
        assert database.value("select last_run_at from analytics.freshness", "analyst") < began
        database.execute(f"grant insert on marts.{model} to transformer")


def test_a_report_has_each_date_once_it_is_over_and_keeps_it_whatever_becomes_of_its_logins(warehouse: Warehouse) -> None:
    """So that neither an erasure nor a login that comes late is seen as a difference."""
    database = warehouse.database
    today = dt.datetime.now(dt.UTC).replace(hour=12)
    for days, users in ((3, 6), (2, 7), (0, 8)):
        ids = {f"{days}-{user}": json.dumps(LOGIN | {"user_id": f"u{user}", "device_id": f"d{user}"}) for user in range(users)}
        warehouse.land(ids, today - dt.timedelta(days=days))
    warehouse.dbt("run")
    reported = "select * from reports.daily_logins where dimension = 'device_type' order by 1"
    found = database.rows(reported, "reporter")
    assert [row[-2:] for row in found] == [(6, 6), (7, 7)]
    assert found[-1][0] == (today - dt.timedelta(days=2)).date()

    warehouse.land({"late": json.dumps(LOGIN | {"user_id": "late"})}, today - dt.timedelta(days=2))
    database.rows("select recovery.erase(array['u0'])", "privacy_officer")
    warehouse.dbt("run")
    assert database.rows("select logins from analytics.daily_logins where dimension = 'device_type' order by create_date", "analyst") == [
        (5,), (7,), (7,)
    ]  # fmt: skip
    assert database.rows(reported, "reporter") == found
    # five are enough
    warehouse.dbt("test", "--select", "assert_no_small_group_is_published")
    # nor does a plan count what is not shown
    plan = "\n".join(row[0] for row in database.rows(f"explain (analyze, verbose) {reported}", "reporter"))
    assert "user_logins" not in plan
