"""The masking policy, database/6_fields.sql: each rule at its limit, a field that is added, a column that is widened."""

import json
from hashlib import sha256

import pytest

from loader.migrate import MigrationError
from tests.judging.conftest import GOOD, LOGIN, Project, Warehouse
from tests.judging.poison import LIMITS
from tests.support import key_blocks

ABSENT = object()
# What a field holds, and the rule that it breaks.
VALUES = [
    (ABSENT, "missing"),
    (None, "missing"),
    (1, "not_text"),
    (True, "not_text"),
    (["x"], "not_text"),
    ({"is": "x"}, "not_text"),
    ("", "empty"),
    (" \t\n\v\f\r\u00a0\u3000\u200b\ufeff", "empty"),
]


def test_each_rule_is_broken_just_over_its_limit(warehouse: Warehouse) -> None:
    pointers = ("software.amazon.payloadoffloading.PayloadS3Pointer", "com.amazon.sqs.javamessaging.MessageS3Pointer")
    in_s3 = {name: json.dumps([name, {"s3BucketName": "a", "s3Key": "b"}]) for name in pointers}
    messages: dict[str, str] = {"whole": GOOD, "not json": "{", "an array": '["S3Pointers"]', "null": "null", **in_s3}
    expected: dict[str, list[str] | None] = {
        "whole": None, "not json": ["body_not_json"], "an array": ["body_not_an_object"], "null": ["body_not_an_object"],
        **{name: ["body_in_s3"] for name in in_s3},
    }  # fmt: skip
    for field, limit in LIMITS.items():
        values = [*VALUES, ("\u20ac" * limit, None), ("\u20ac" * (limit + 1), "too_long")]
        for number, (value, rule) in enumerate(values):
            name = f"{field} {number}"
            messages[name] = json.dumps({key: it for key, it in (LOGIN | {field: value}).items() if it is not ABSENT})
            is_fine = rule is None or (rule == "missing" and field == "locale")
            expected[name] = None if is_fine else [f"{field}_{rule}"]
    messages["two"] = json.dumps(LOGIN | {"user_id": 1, "locale": ""})
    expected["two"] = ["locale_empty", "user_id_not_text"]
    warehouse.land(messages)

    found = dict(warehouse.database.rows("select message_id, reasons from staging.unjudged_logins", "transformer"))

    assert {name: sorted(reasons) if reasons else reasons for name, reasons in found.items()} == expected


def test_a_value_is_masked_in_its_canonical_form_by_the_key_of_its_domain(warehouse: Warehouse) -> None:
    """The tokens are computed anew here, from the keys and RFC 2104. Each ip is sent as the device id as well."""
    forms: dict[str, tuple[str, str, str | None]] = {
        "192.0.2.1": ("ip", "192.0.2.1", "192.0.2.0/24"),
        "::ffff:192.0.2.1": ("ip", "192.0.2.1", "192.0.2.0/24"),
        "2001:0DB8:0000::0001": ("ip", "2001:db8::1", "2001:db8::/48"),
        "192.0.2.01": ("invalid_ip", "192.0.2.01", None),
        "unknown": ("invalid_ip", "unknown", None),
    }
    warehouse.land({ip: json.dumps(LOGIN | {"ip": ip, "device_id": ip}) for ip in forms})
    keys = {row[0]: row[1:] for row in warehouse.database.rows("select domain, inner_block, outer_block from masking.keys")}

    def token(domain: str, value: str | None) -> str | None:
        inner, outer = keys[domain]
        return value and f"v1:{sha256(outer + sha256(inner + value.encode()).digest()).hexdigest()[:32]}"

    found = warehouse.database.rows(
        "select message_id, masked_ip, masked_network, masked_device_id from staging.unjudged_logins", "transformer"
    )

    assert {row[0]: row[1:] for row in found} == {
        ip: (token(domain, form), token("network", network), token("device_id", ip)) for ip, (domain, form, network) in forms.items()
    }


FIELDS = "('locale', 'locale', 32, false,"
COLUMNS = {
    "database/6_fields.sql": (
        "('user_id', 'user_id', 128,",
        (
            "('masked_email', 'email', 256, false, 'email', 'as_sent', null, null),\n"
            "('country', 'country', 2, false, null, null, null, 'one of some two hundred countries'),\n"
            "('user_id', 'user_id', 128,"
        ),
    ),
    "dbt_project/models/marts/user_logins.sql": (
        "    sent_at\n\nfrom accepted",
        "    sent_at,\n    masked_email,\n    country\n\nfrom accepted",
    ),
    "dbt_project/models/marts/user_logins.yml": (
        "\nunit_tests:",
        (
            "      - name: masked_email\n        data_type: varchar(256)\n        description: Token of the address, as sent.\n"
            "      - name: country\n        data_type: varchar(2)\n        description: As sent.\n\nunit_tests:"
        ),
    ),
}


def test_a_personal_field_and_a_plain_one_are_added_by_editing_three_files(project: Project) -> None:
    warehouse, database = project.warehouse, project.warehouse.database
    warehouse.land({"old": GOOD})
    warehouse.dbt("run")
    address = "somebody@example.com"
    new = {"user_id": "u2", "email": address, "country": "DE"}

    for file, (old, text) in COLUMNS.items():
        project.replace(file, old, text)
    project.migrate()
    warehouse.land({name: json.dumps(LOGIN | new | {"device_id": name}) for name in ("new", "again")})
    warehouse.land({"long": json.dumps(LOGIN | new | {"country": "Germany"}), "none": GOOD})
    project.dbt("build", "--exclude", "assert_few_messages_are_rejected", "test_type:unit")

    assert warehouse.rejected() == {"long": ["country_too_long"]}
    seen = "select masked_email, country from analytics.user_logins where user_id = 'u2'"
    (token, country), (second, _) = database.rows(seen, "analyst")
    assert token == second
    assert token.startswith("v1:")
    assert country == "DE"
    assert database.value("select count(*) from analytics.user_logins where masked_email is null and country is null", "analyst") == 2

    assert reveal(warehouse, token) == [(token, "email", address, 2)]
    assert database.rows("select changed_logins from recovery.rotate()", "privacy_officer") == [(4,)]
    rotated = database.rows(seen, "analyst")
    assert rotated == [(rotated[0][0], "DE")] * 2
    assert rotated[0][0].startswith("v2:")
    assert reveal(warehouse, rotated[0][0]) == [(rotated[0][0], "email", address, 2)]
    assert database.rows("select raw_messages, logins from recovery.erase(array['u2'])", "privacy_officer") == [(3, 2)]
    assert database.rows(seen, "analyst") == []
    assert len(key_blocks(database)) == 2 * len({"ip", "invalid_ip", "network", "device_id", "email", "erased_user"})


def reveal(warehouse: Warehouse, token: str) -> list[tuple[object, ...]]:
    """The values behind *token*, through the four steps."""
    database = warehouse.database
    requested = f"select recovery.request_reveal(array['{token}'], 'fraud', 'case 1')"
    reveal_id = database.value(requested, "pii_requester")
    database.rows(f"select recovery.approve_reveal('{reveal_id}')", "pii_approver")
    database.rows(f"select recovery.open_reveal('{reveal_id}')", "pii_requester")
    return database.rows(f"select * from recovery.read_reveal('{reveal_id}')", "pii_requester")


def test_a_widened_column_is_refused_while_views_use_it_and_by_the_advice_of_the_refusal_nothing_is_cut(project: Project) -> None:
    warehouse, database = project.warehouse, project.warehouse.database
    locale = "l" * 64
    wide = json.dumps(LOGIN | {"locale": locale})
    warehouse.land({"before": GOOD, "wide": wide})
    warehouse.dbt("run")
    assert warehouse.rejected() == {"wide": ["locale_too_long"]}
    project.replace("database/6_fields.sql", FIELDS, FIELDS.replace("32", "64"))
    project.replace(
        "dbt_project/models/marts/user_logins.yml",
        "name: locale\n        data_type: varchar(32)",
        "name: locale\n        data_type: varchar(64)",
    )
    policy = "select max_length from masking.fields where column_name = 'locale'"

    with pytest.raises(MigrationError) as refusal:
        project.migrate()

    assert "marts.user_logins.locale is varchar(32), 6_fields.sql allows 64 characters, and views use it" in str(refusal.value)
    assert "as transformer, drop the views in analytics, migrate, then dbt run" in str(refusal.value)
    assert database.value(policy) == 32
    views = database.rows("select format('drop view %I.%I cascade', schemaname, viewname) from pg_views where schemaname = 'analytics'")
    with database.connect("transformer") as connection:
        for (statement,) in views:
            connection.execute(statement.replace("drop view", "drop view if exists").encode())
    project.migrate()
    project.dbt("run-operation", "judge_again")
    project.dbt("run")

    assert (warehouse.masked(), warehouse.rejected()) == (["before", "wide"], {})
    assert database.rows("select locale from analytics.user_logins where locale is not null", "analyst") == [(locale,)]


def test_a_column_is_not_narrowed_and_what_no_longer_fits_is_rejected(project: Project) -> None:
    warehouse = project.warehouse
    warehouse.land({"before": json.dumps(LOGIN | {"locale": "de-AT"})})
    warehouse.dbt("run")
    project.replace("database/6_fields.sql", FIELDS, FIELDS.replace("32", "2"))
    project.migrate()
    warehouse.land({"after": json.dumps(LOGIN | {"locale": "de-AT"})})

    warehouse.dbt("run")

    assert (warehouse.masked(), warehouse.rejected()) == (["before"], {"after": ["locale_too_long"]})
    assert warehouse.database.value("select locale from marts.user_logins") == "de-AT"


def test_a_column_that_the_table_cannot_hold_is_an_error_and_its_message_waits(project: Project) -> None:
    """The control of the two above: a rule that lets more through than the column takes must not cut."""
    warehouse = project.warehouse
    warehouse.dbt("run")
    warehouse.land({"wide": json.dumps(LOGIN | {"locale": "l" * 33})})
    bound, wider = "'locale'::text, false, 32", "'locale'::text, false, 64"
    view = warehouse.database.value("select pg_get_viewdef('staging.unjudged_logins'::regclass)")
    assert bound in view
    warehouse.execute(f"create or replace view staging.unjudged_logins as {view.replace(bound, wider)}")

    assert "value too long for type character varying(32)" in warehouse.dbt("run", code=1)

    assert (warehouse.outcomes(), warehouse.waiting()) == ([], ["wide"])
