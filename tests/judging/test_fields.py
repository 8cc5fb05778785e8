"""The masking policy, database/6_fields.sql: a field that is added, a column that is widened."""

import json

import pytest

from loader.migrate import MigrationError
from tests import canaries, support
from tests.judging.conftest import GOOD, LOCALE, LOGIN, Warehouse

COLUMNS = {
    "database/6_fields.sql": (
        "('user_id', 'user_id', 128,",
        (
            "('masked_email', 'email', 256, false, 'email', 'as_sent', null, null),\n"
            "('country', 'country', 2, false, null, null, null, 'one of some two hundred countries'),\n"
            "('user_id', 'user_id', 128,"
        ),
    ),
    "dbt_project/models/marts/user_logins.sql": ("    sent_at\n\nfrom", "    sent_at,\n    masked_email,\n    country\n\nfrom"),
    "dbt_project/models/marts/user_logins.yml": (
        "\nunit_tests:",
        (
            "      - name: masked_email\n        data_type: varchar(256)\n        description: Token of the address, as sent.\n"
            "      - name: country\n        data_type: varchar(2)\n        description: As sent.\n\nunit_tests:"
        ),
    ),
}


def test_a_personal_field_and_a_plain_one_are_added_by_editing_three_files(warehouse: Warehouse) -> None:
    database = warehouse.database
    warehouse.land({"old": GOOD})
    warehouse.dbt("run")
    address = "somebody@example.com"
    new = {"user_id": "u2", "email": address, "country": "DE"}

    for file, (old, text) in COLUMNS.items():
        warehouse.edit(file, old, text)
    warehouse.migrate()
    warehouse.land({name: json.dumps(LOGIN | new | {"device_id": name}) for name in ("new", "again")})
    warehouse.land({"long": json.dumps(LOGIN | new | {"country": "Germany"}), "none": GOOD})
    warehouse.dbt("build", "--exclude", "assert_few_messages_are_rejected", "test_type:unit")

    assert warehouse.reasons() == {"long": ["country_too_long"]}
    with database.connect() as connection:
        found = {relation for relation, text in support.readable(connection).items() if canaries.found_in(text, [address])}
    assert {relation.split("_20")[0] for relation in found} == {"staging.raw_logins", "staging.personal_values"}
    seen = "select masked_email, country from analytics.user_logins where user_id = 'u2'"
    for version in ("v1", "v2"):
        (token, country), second = database.rows(seen, "analyst")
        assert (second, country, token.partition(":")[0]) == ((token, country), "DE", version)
        assert reveal(warehouse, token) == [(token, "email", address, 2)]
        database.rows("select recovery.rotate()", "privacy_officer")
    assert database.value("select count(*) from analytics.user_logins where masked_email is null and country is null", "analyst") == 2
    assert database.rows("select raw_messages, logins from recovery.erase(array['u2'])", "privacy_officer") == [(3, 2)]
    assert database.rows(seen, "analyst") == []
    keys = database.rows("select domain from masking.keys order by 1")
    assert keys == [("device_id",), ("email",), ("erased_user",), ("invalid_ip",), ("ip",), ("network",)]


def reveal(warehouse: Warehouse, token: str) -> list[tuple[object, ...]]:
    """The values behind *token*, through the four steps."""
    database = warehouse.database
    reveal_id = database.value(f"select recovery.request_reveal(array['{token}'], 'fraud', 'case 1')", "pii_requester")
    database.rows(f"select recovery.approve_reveal('{reveal_id}')", "pii_approver")
    database.rows(f"select recovery.open_reveal('{reveal_id}')", "pii_requester")
    return database.rows(f"select * from recovery.read_reveal('{reveal_id}')", "pii_requester")


def test_a_widened_column_is_refused_while_views_use_it_and_by_the_advice_of_the_refusal_nothing_is_cut(warehouse: Warehouse) -> None:
    database = warehouse.database
    locale = "l" * 64
    wide = json.dumps(LOGIN | {"locale": locale})
    warehouse.land({"before": GOOD, "wide": wide})
    warehouse.dbt("run")
    assert warehouse.reasons() == {"wide": ["locale_too_long"]}
    warehouse.edit("database/6_fields.sql", LOCALE, LOCALE.replace("32", "64"))
    warehouse.edit(
        "dbt_project/models/marts/user_logins.yml",
        "name: locale\n        data_type: varchar(32)",
        "name: locale\n        data_type: varchar(64)",
    )

    with pytest.raises(MigrationError) as refusal:
        warehouse.migrate()

    assert "marts.user_logins.locale is varchar(32), 6_fields.sql allows 64 characters, and views use it" in str(refusal.value)
    assert "as transformer, drop the views in analytics, migrate, then dbt run" in str(refusal.value)
    assert database.value("select max_length from masking.fields where column_name = 'locale'") == 32
    views = "select string_agg(format('analytics.%I', viewname), ', ') from pg_views where schemaname = 'analytics'"
    warehouse.database.execute(f"drop view {database.value(views)}", role="transformer")
    warehouse.migrate()
    warehouse.dbt("run-operation", "judge_again")
    warehouse.dbt("run")

    assert warehouse.places() == (["before", "wide"], [], [])
    assert database.rows("select locale from analytics.user_logins where locale is not null", "analyst") == [(locale,)]
