"""After a rule was corrected, and after what happens to tables and servers: nothing is lost, nothing is doubled."""

import json

from tests.judging.conftest import Warehouse

LOGIN = {"user_id": "u1", "app_version": "2.3.0", "device_type": "ios", "ip": "192.0.2.1", "locale": None, "device_id": "000-00-0001"}
GOOD = json.dumps(LOGIN)
STRICT = ("--vars", '{"max_body_bytes": 60}')


def test_what_passes_a_corrected_rule_moves_once_and_what_has_expired_stays(warehouse: Warehouse) -> None:
    warehouse.land({"passes": GOOD, "fails": "oops", "expires": GOOD})
    warehouse.dbt("run", *STRICT)
    assert warehouse.rejected() == {"expires": ["body_too_large"], "fails": ["body_not_json"], "passes": ["body_too_large"]}
    with warehouse.database.connect() as connection:
        connection.execute("delete from staging.raw_logins where message_id = 'expires'")

    assert "2 rejected messages await judgement" in warehouse.dbt("run-operation", "judge_again")
    assert warehouse.rejected() == {"expires": ["body_too_large"]}
    warehouse.dbt("run")

    assert warehouse.masked() == ["passes"]
    assert warehouse.rejected() == {"expires": ["body_too_large"], "fails": ["body_not_json"]}
    warehouse.dbt("run-operation", "judge_again")
    warehouse.dbt("run")
    assert list(warehouse.outcomes()) == ["expires", "fails", "passes"]


def test_a_message_that_user_logins_left_by_earlier_rules_is_rejected_and_can_be_judged_again(warehouse: Warehouse) -> None:
    warehouse.land({"m1": GOOD})
    warehouse.dbt("run", "--exclude", "rejected_logins+", *STRICT)
    warehouse.dbt("run", "--select", "rejected_logins")
    assert warehouse.rejected() == {"m1": ["judged_by_earlier_rules"]}

    warehouse.dbt("run-operation", "judge_again")
    warehouse.dbt("run")

    assert warehouse.masked() == ["m1"]
    assert warehouse.rejected() == {}


def test_a_full_refresh_keeps_what_has_no_raw_message_any_more(warehouse: Warehouse) -> None:
    warehouse.land({"m1": GOOD, "m2": "oops"})
    warehouse.dbt("run")
    with warehouse.database.connect() as connection:
        connection.execute("delete from staging.raw_logins")

    warehouse.dbt("run", "--full-refresh")

    assert list(warehouse.outcomes()) == ["m1", "m2"]


def test_a_dropped_table_is_filled_again_from_what_is_still_in_staging(warehouse: Warehouse) -> None:
    warehouse.land({"m1": GOOD, "m2": "oops"})
    warehouse.dbt("run")
    with warehouse.database.connect() as connection:
        connection.execute("drop table marts.user_logins cascade")

    warehouse.dbt("run")

    assert warehouse.masked() == ["m1"]
    assert list(warehouse.rejected()) == ["m2"]


def test_a_restored_dump_is_refused_until_it_is_resumed_and_then_each_message_counts_once(warehouse: Warehouse) -> None:
    warehouse.land({"m1": GOOD, "m2": "oops"})
    warehouse.dbt("run")
    warehouse.land({"m3": GOOD})
    with warehouse.database.connect() as connection:
        # as in a dump from a server that has given out more transaction ids than this one
        connection.execute("update staging.watermarks set system_identifier = 1, taken_before = '9000000', window_before = '9000000'")
        connection.execute("update staging.raw_logins set landed_xid = '8000000'")
        connection.execute("update staging.raw_logins set landed_xid = '9000001' where message_id = 'm3'")

    refusal = warehouse.dbt("run", code=1)
    assert "the watermark of user_logins is from server 1, and this is server" in refusal
    assert "run dbt run-operation resume_after_restore once, see docs/restoring.md" in refusal
    assert list(warehouse.outcomes()) == ["m1", "m2"]

    assert "3 rows landed anew" in warehouse.dbt("run-operation", "resume_after_restore")
    warehouse.dbt("run")
    assert list(warehouse.outcomes()) == ["m1", "m2", "m3"]
    assert "nothing has to be resumed" in warehouse.dbt("run-operation", "resume_after_restore", code=1)
