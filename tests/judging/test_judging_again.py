"""Messages that come again, and rules that were corrected: nothing is lost, nothing is doubled."""

import datetime as dt

from tests.judging.conftest import GOOD, Places, Warehouse


def test_what_passes_a_corrected_rule_moves_once_and_what_has_expired_or_is_masked_stays(warehouse: Warehouse) -> None:
    german = GOOD.replace("null", '"DE"')
    warehouse.land({"before": german})
    warehouse.dbt("run")
    warehouse.limit_locale(1)
    warehouse.land({"passes": german, "fails": "oops", "expires": german})
    warehouse.dbt("run")
    assert warehouse.reasons() == {"expires": ["locale_too_long"], "fails": ["body_not_json"], "passes": ["locale_too_long"]}
    # the column is not narrowed
    assert warehouse.database.value("select locale from marts.user_logins where message_id = 'before'") == "DE"
    warehouse.database.execute("delete from staging.raw_logins where message_id = 'expires'")
    warehouse.limit_locale(32)

    assert "2 rejected messages await judgement" in warehouse.dbt("run-operation", "judge_again")
    assert warehouse.places() == (["before"], ["expires"], ["fails", "passes"])
    warehouse.dbt("run")

    ended: Places = (["before", "passes"], ["expires", "fails"], [])
    assert warehouse.places() == ended
    warehouse.dbt("run-operation", "judge_again")
    warehouse.dbt("run")
    assert warehouse.places() == ended


def test_each_model_takes_its_messages_and_what_is_delivered_again_leaves_the_list_and_keeps_its_outcome(warehouse: Warehouse) -> None:
    warehouse.land({"m1": GOOD, "m2": "oops"})
    warehouse.dbt("run", "--select", "user_logins.sql")
    assert warehouse.places() == (["m1"], [], ["m2"])
    warehouse.dbt("run", "--select", "rejected_logins.sql")
    assert warehouse.places() == (["m1"], ["m2"], [])
    before = warehouse.database.rows("select user_logins::text from marts.user_logins")
    # what the loader's ON CONFLICT DO NOTHING leaves: no second body, and a message on the list
    warehouse.database.execute("insert into staging.unjudged select message_id, sent_at from staging.raw_logins")

    warehouse.dbt("run")

    assert warehouse.places() == (["m1"], ["m2"], [])
    assert warehouse.database.rows("select user_logins::text from marts.user_logins") == before


def test_messages_of_every_month_have_their_outcome_in_its_partition(warehouse: Warehouse) -> None:
    for month in range(1, 13):
        warehouse.land({f"m{month}": GOOD, f"bad{month}": "oops"}, dt.datetime(2026, month, 1, tzinfo=dt.UTC))
        warehouse.land({f"last{month}": GOOD}, dt.datetime(2026, month, 28, 23, 59, tzinfo=dt.UTC))

    warehouse.dbt("run")

    assert [len(place) for place in warehouse.places()] == [24, 12, 0]
    counts = warehouse.database.rows("select tableoid::regclass::text, count(*) from marts.user_logins group by 1 order by 1")
    assert counts == [(f"marts.user_logins_2026{month:02}", 2) for month in range(1, 13)]
