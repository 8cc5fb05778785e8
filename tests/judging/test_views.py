"""What the views say of time and freshness."""

import datetime as dt
import json

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


def test_a_logins_id_is_its_own_and_no_messages(warehouse: Warehouse) -> None:
    database = warehouse.database
    warehouse.land({"m1": GOOD, "m2": GOOD})
    warehouse.dbt("run")
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
    assert database.rows(freshness, "reporter") == [(None, True, 0, None, 0)]

    began = database.value("select clock_timestamp()")
    warehouse.land({"old": GOOD, "older rejected": "oops"}, SENT_AT)
    warehouse.land({"rejected today": json.dumps(LOGIN | {"ip": None})})
    warehouse.dbt("run")
    warehouse.land({"waiting": GOOD}, SENT_AT + dt.timedelta(days=1))
    assert database.rows(freshness, "reporter") == [(SENT_AT, True, 1, SENT_AT + dt.timedelta(days=1), 1)]
    ran = database.value("select last_run_at from analytics.freshness", "reporter")
    assert ran > began

    # a run that fails is none
    database.execute("revoke insert on marts.user_logins from transformer; revoke insert on marts.rejected_logins from transformer")
    warehouse.dbt("run", code=1)
    assert database.value("select last_run_at from analytics.freshness", "reporter") == ran
