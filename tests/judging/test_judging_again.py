"""Messages that come again, and rules that were corrected: nothing is lost, nothing is doubled."""

import datetime as dt

from tests.judging.conftest import GOOD, Project, Warehouse

STRICT = "('locale', 'locale', 1"
AS_IT_IS = "('locale', 'locale', 32"


def test_what_passes_a_corrected_rule_moves_once_and_what_has_expired_stays(project: Project) -> None:
    warehouse = project.warehouse
    german = GOOD.replace("null", '"DE"')
    project.replace("database/6_fields.sql", AS_IT_IS, STRICT)
    project.migrate()
    warehouse.land({"passes": german, "fails": "oops", "expires": german})
    warehouse.dbt("run")
    assert warehouse.rejected() == {"expires": ["locale_too_long"], "fails": ["body_not_json"], "passes": ["locale_too_long"]}
    warehouse.execute("delete from staging.raw_logins where message_id = 'expires'")
    project.replace("database/6_fields.sql", STRICT, AS_IT_IS)
    project.migrate()

    assert "2 rejected messages await judgement" in warehouse.dbt("run-operation", "judge_again")
    assert warehouse.rejected() == {"expires": ["locale_too_long"]}
    warehouse.dbt("run")

    assert warehouse.masked() == ["passes"]
    assert warehouse.rejected() == {"expires": ["locale_too_long"], "fails": ["body_not_json"]}
    warehouse.dbt("run-operation", "judge_again")
    warehouse.dbt("run")
    assert (list(warehouse.outcomes()), warehouse.waiting()) == (["expires", "fails", "passes"], [])


def test_a_message_that_is_delivered_again_after_its_outcome_leaves_the_list_and_keeps_its_outcome(warehouse: Warehouse) -> None:
    sent_at = dt.datetime.now(dt.UTC)
    messages = {"m1": GOOD, "m2": "oops"}
    warehouse.land(messages, sent_at)
    warehouse.dbt("run")
    before = warehouse.database.rows("select message_id, user_logins::text from marts.user_logins")
    # what the loader's ON CONFLICT DO NOTHING leaves: no second body, and a message on the list
    warehouse.execute("insert into staging.unjudged select message_id, sent_at from staging.raw_logins")
    assert warehouse.waiting() == ["m1", "m2"]

    warehouse.dbt("run")

    assert warehouse.database.rows("select message_id, user_logins::text from marts.user_logins") == before
    assert (warehouse.masked(), list(warehouse.rejected()), warehouse.waiting()) == (["m1"], ["m2"], [])


def test_one_model_alone_takes_its_messages_and_leaves_the_others_to_the_other(warehouse: Warehouse) -> None:
    warehouse.land({"m1": GOOD, "m2": "oops"})
    warehouse.dbt("run", "--select", "user_logins.sql")
    assert (list(warehouse.outcomes()), warehouse.waiting()) == (["m1"], ["m2"])

    warehouse.dbt("run", "--select", "rejected_logins.sql")

    assert (list(warehouse.outcomes()), warehouse.waiting()) == (["m1", "m2"], [])


def test_messages_of_every_month_have_their_outcome_in_its_partition(warehouse: Warehouse) -> None:
    for month in range(1, 13):
        warehouse.land({f"m{month}": GOOD, f"bad{month}": "oops"}, dt.datetime(2026, month, 1, tzinfo=dt.UTC))
        warehouse.land({f"last{month}": GOOD}, dt.datetime(2026, month, 28, 23, 59, tzinfo=dt.UTC))

    warehouse.dbt("run")

    assert (len(warehouse.masked()), len(warehouse.rejected()), warehouse.waiting()) == (24, 12, [])
    counts = warehouse.database.rows("select tableoid::regclass::text, count(*) from marts.user_logins group by 1 order by 1")
    assert counts == [(f"marts.user_logins_2026{month:02}", 2) for month in range(1, 13)]
