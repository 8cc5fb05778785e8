"""The masking policy, database/6_fields.sql: a field that is added, a column that is widened."""

import json

import psycopg
import pytest

from loader.errors import LoaderError
from loader.migrate import foresee
from tests import canaries, support
from tests.judging.conftest import GOOD, LOCALE, LOGIN, Warehouse
from tests.support import VIEWS

COLUMNS = {
    "database/6_fields.sql": (
        "('masked_device_id', 'device_id', 256, true, 'device_id',",
        (
            "('masked_email', 'contact.emails[0]', 256, false, 'email', 'email', 'invalid_email'),\n"
            "('masked_device_id', 'device_id', 256, true, 'device_id',"
        ),
    ),
    "dbt_project/models/marts/user_logins.sql": ("    sent_at\n\nfrom", "    sent_at,\n    masked_email,\n    country\n\nfrom"),
    "dbt_project/models/marts/user_logins.yml": (
        "\nunit_tests:",
        (
            "      - name: masked_email\n        data_type: varchar(256)\n        description: Token of the address.\n"
            "      - name: country\n        data_type: varchar(2)\n        description: As sent.\n\nunit_tests:"
        ),
    ),
}
COUNTRY = (
    "('user_id', 'user_id', 128,",
    "('country', 'geo.country', 2, false, 'reject', 'one of some two hundred countries'),\n('user_id', 'user_id', 128,",
)


def test_a_personal_field_and_a_plain_one_are_added_by_editing_three_files_and_filled_for_older_logins(warehouse: Warehouse) -> None:
    database = warehouse.database
    address = "somebody@example.com"
    new = {"user_id": "u2", "contact": {"emails": [address]}, "geo": {"country": "DE"}}
    other_spelling = new | {"contact": {"emails": [" somebody@EXAMPLE.com"]}}
    warehouse.land({"old": GOOD, "older": json.dumps(LOGIN | new | {"device_id": "older"})})
    warehouse.dbt("run")

    for file, (old, text) in COLUMNS.items():
        warehouse.edit(file, old, text)
    warehouse.edit("database/6_fields.sql", *COUNTRY)
    warehouse.migrate()
    warehouse.land({"new": json.dumps(LOGIN | other_spelling | {"device_id": "new"})})
    warehouse.land({"long": json.dumps(LOGIN | new | {"geo": {"country": "Germany"}}), "none": GOOD})
    warehouse.dbt("run", "--select", "marts", "--vars", "backfill: true")
    warehouse.dbt("build", "--exclude", "assert_few_messages_are_rejected", "test_type:unit")

    assert warehouse.reasons() == {"long": ["geo.country_too_long"]}
    with database.connect() as connection:
        found = {relation for relation, text in support.readable(connection).items() if canaries.found_in(text, [address])}
    assert {relation.split("_20")[0] for relation in found} == {"staging.raw_logins", "staging.personal_values", "staging.message_users"}
    seen = "select masked_email, country from analytics.user_logins where user_id = 'u2'"
    for version in ("v1", "v2"):
        (token, country), second = database.rows(seen, "analyst")
        assert (second, country, token.partition(":")[0]) == ((token, country), "DE", version)
        assert reveal(warehouse, token) == [
            (token, "contact.emails[0]", " somebody@EXAMPLE.com", 1),
            (token, "contact.emails[0]", address, 1),
        ]
        database.rows("select recovery.rotate()", "privacy_officer")
    assert database.value("select count(*) from analytics.user_logins where masked_email is null and country is null", "analyst") == 2
    assert database.rows("select raw_messages, logins from recovery.erase(array['u2'])", "privacy_officer") == [(3, 2)]
    assert database.rows(seen, "analyst") == []
    keys = database.rows("select domain from masking.keys order by 1")
    assert keys == [("device_id",), ("email",), ("erased_user",), ("invalid_email",), ("invalid_ip",), ("ip",), ("network",)]


def test_a_network_of_another_length_is_a_row_with_a_key_of_its_own(warehouse: Warehouse) -> None:
    warehouse.edit(
        "database/6_fields.sql",
        "('masked_device_id', 'device_id', 256,",
        "('masked_region', 'ip', null, true, 'region', 'network/16/32', null),\n('masked_device_id', 'device_id', 256,",
    )
    warehouse.edit("dbt_project/models/marts/user_logins.sql", "    sent_at\n\nfrom", "    sent_at,\n    masked_region\n\nfrom")
    described = "      - name: masked_region\n        data_type: varchar(256)\n        description: Token of the /16 or /32.\n"
    warehouse.edit("dbt_project/models/marts/user_logins.yml", "\nunit_tests:", f"{described}\nunit_tests:")
    warehouse.migrate()
    addresses = ["192.0.2.1", "192.0.3.1", "198.51.100.1", "2001:db8:1::1", "2001:db8:2::1", "nowhere"]
    warehouse.land({address: json.dumps(LOGIN | {"ip": address, "device_id": address}) for address in addresses})
    warehouse.dbt("run")

    database = warehouse.database
    tokens = dict(database.rows("select message_id, masked_region from marts.user_logins"))
    assert tokens["192.0.2.1"] == tokens["192.0.3.1"] != tokens["198.51.100.1"]
    assert tokens["2001:db8:1::1"] == tokens["2001:db8:2::1"]
    assert tokens["nowhere"] is None
    assert database.value("select count(distinct masked_network) from marts.user_logins") == 5
    assert reveal(warehouse, tokens["192.0.2.1"]) == [(tokens["192.0.2.1"], "ip", "192.0.0.0/16", 2)]
    database.rows("select recovery.rotate()", "privacy_officer")
    rotated = dict(database.rows("select message_id, masked_region from marts.user_logins"))
    assert rotated["192.0.2.1"] == rotated["192.0.3.1"] != tokens["192.0.2.1"]


LINES = """
    create temporary table lines (number, first_ip, last_ip, country, asn) as values
    (1, '192.0.2.0/24', null, '{}', 'AS64496'), (2, '198.51.100.0', '198.51.100.255', null, '4294967295'),
    (3, '255.255.255.0/24', null, 'ZW', null), (4, '2001:db8::/32', null, 'JP', null);
    select staging.replace_ip_ranges('lines', current_date);
    drop table lines, found
"""


def test_an_address_has_the_country_and_the_operator_of_its_range(warehouse: Warehouse) -> None:
    places: dict[str, tuple[str | None, int | None]] = {
        "192.0.2.0": ("DE", 64496),
        " 192.0.2.255 ": ("DE", 64496),
        "::ffff:192.0.2.9": ("DE", 64496),
        "192.0.3.0": (None, None),
        "198.51.100.255": (None, 4294967295),
        "2001:DB8:0:0::1": ("JP", None),
        "255.255.255.255": ("ZW", None),
        "64:ff9b::c000:201": (None, None),
        "2001:db9::": (None, None),
        "192.0.1.255": (None, None),
        "no address": (None, None),
    }
    warehouse.land({address: json.dumps(LOGIN | {"ip": address}) for address in places})
    warehouse.dbt("build", "--selector", "each_run")
    assert warehouse.database.rows("select count(*), count(ip_country), count(ip_asn) from marts.user_logins") == [(len(places), 0, 0)]
    warehouse.database.execute(LINES.format("DE"))
    warehouse.dbt("run", "--select", "marts", "--vars", "backfill: true")
    found = "select message_id, ip_country, ip_asn from marts.user_logins"
    assert {address: place for address, *place in warehouse.database.rows(found)} == {
        address: [*place] for address, place in places.items()
    }
    # what is masked stays; a back-fill follows the file of today
    warehouse.database.execute(LINES.format("FR"))
    warehouse.dbt("run")
    assert warehouse.database.value("select count(*) from marts.user_logins where ip_country = 'DE'") == 3
    warehouse.dbt("run", "--select", "marts", "--vars", "backfill: true")
    assert warehouse.database.value("select count(*) from marts.user_logins where ip_country = 'FR'") == 3


@pytest.mark.parametrize("length", [32, 24])
def test_an_address_with_a_range_of_its_own_is_not_given_away_by_it(warehouse: Warehouse, length: int) -> None:
    """The control: in a range of the whole /24, its country and operator are shown; no address and no range ever is."""
    warehouse.database.execute(f"""
        create temporary table lines (number, first_ip, last_ip, country, asn) as values
        (1, '198.51.100.0/24', null, 'DE', '64496'), (2, host(network('203.0.113.77/{length}')) || '/{length}', null, 'VA', '4211111111');
        select staging.replace_ip_ranges('lines', current_date)
    """)
    warehouse.land({"m1": json.dumps(LOGIN | {"ip": "203.0.113.77"})})
    warehouse.dbt("run")
    shown = [str(row) for view in VIEWS for row in warehouse.database.rows(f"select to_jsonb(it) from analytics.{view} as it", "analyst")]
    assert any("masked_ip" in row for row in shown)
    assert not any("203.0.113" in row for row in shown)
    assert any("VA" in row or "4211111111" in row for row in shown) == (length == 24)
    for role in ("analyst", "reporter", "transformer", "loader"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            warehouse.database.rows("select ranges from staging.ip_ranges", role)


PLAIN_TYPES = """
insert into masking.fields (column_name, path, json_type, is_required, on_personal, reason) values
('attempts', 'auth.attempts', 'number', false, 'allow', 'a count'),
('is_new', 'auth.is_new', 'boolean', true, 'allow', 'yes or no');
insert into masking.fields (column_name, path, json_type, max_length, on_personal, reason) values
('build', 'builds[1]', 'string_or_number', 9, 'allow', 'a release');
"""


def test_each_type_is_read_at_its_path_and_what_is_of_another_type_is_rejected(warehouse: Warehouse) -> None:
    warehouse.edit("database/6_fields.sql", "\nset local role pipeline_owner", PLAIN_TYPES + "\nset local role pipeline_owner")
    columns = {"attempts": "numeric", "is_new": "boolean", "build": "varchar(9)"}
    described = "".join(f"      - name: {name}\n        data_type: {kind}\n        description: New.\n" for name, kind in columns.items())
    warehouse.edit("dbt_project/models/marts/user_logins.sql", "    sent_at\n\nfrom", f"    sent_at,\n    {', '.join(columns)}\n\nfrom")
    warehouse.edit("dbt_project/models/marts/user_logins.yml", "\nunit_tests:", f"{described}\nunit_tests:")
    warehouse.migrate()
    events: dict[str, dict[str, object]] = {
        "all": {"auth": {"attempts": 2.5, "is_new": True}, "builds": ["a", "b"]},
        "number as text": {"auth": {"is_new": False}, "builds": [0, 17]},
        "null": {"auth": {"attempts": None, "is_new": False}},
        "text for a number": {"auth": {"attempts": "2", "is_new": True}},
        "number for a truth": {"auth": {"is_new": 1}},
        "no truth": {"auth": 1},
        "object": {"auth": {"is_new": True}, "builds": [1, {}]},
        "too long": {"auth": {"is_new": True}, "builds": [1, 1234567890]},
    }
    warehouse.land({name: json.dumps(LOGIN | event) for name, event in events.items()})
    warehouse.dbt("run")

    assert warehouse.reasons() == {
        "text for a number": ["auth.attempts_not_a_number"],
        "number for a truth": ["auth.is_new_not_a_boolean"],
        "no truth": ["auth.is_new_missing"],
        "object": ["builds[1]_not_text"],
        "too long": ["builds[1]_too_long"],
    }
    assert warehouse.database.rows("select message_id, attempts, is_new, build from marts.user_logins order by 1") == [
        ("all", 2.5, True, "b"),
        ("null", None, False, None),
        ("number as text", None, False, "17"),
    ]
    warehouse.dbt("test", "--select", "assert_plain_columns_are_as_sent", "names_rules_rejected_logins_reasons")


def test_a_field_that_is_not_required_may_be_missing_though_it_is_masked(warehouse: Warehouse) -> None:
    for name in ("'masked_ip', 'ip', 256,", "'masked_network', 'ip', null,", "'masked_device_id', 'device_id', 256,"):
        warehouse.edit("database/6_fields.sql", f"({name} true", f"({name} false")
    warehouse.migrate()
    bare = {key: value for key, value in LOGIN.items() if key not in {"ip", "device_id"}}
    warehouse.land({"bare": json.dumps(bare), "bare too": json.dumps(bare), "empty": json.dumps(bare | {"ip": ""}), "whole": GOOD})
    warehouse.dbt("build", "--exclude", "assert_few_messages_are_rejected", "test_type:unit")

    assert warehouse.reasons() == {"empty": ["ip_empty"]}
    columns = "masked_ip is null, masked_network is null, masked_device_id is null, ip_is_valid"
    assert warehouse.database.rows(f"select message_id, {columns} from marts.user_logins order by 1") == [
        ("bare", True, True, True, None),
        ("bare too", True, True, True, None),
        ("whole", False, False, False, True),
    ]


MISPLACED: dict[str, dict[str, object]] = {
    "address": {"locale": "192.0.2.77"},
    "in a word": {"device_type": "ios 2001:db8::9"},
    "email": {"user_id": "someone@example.com"},
    "phone": {"app_version": "+1 555 010 0199"},
    "the device": {"user_id": "000-00-0001"},
    "the ip, and the device in capitals": {"locale": "192.0.2.1", "device_id": "abc", "device_type": "ABC"},
}


def test_a_personal_value_in_the_wrong_place_rejects_the_login(warehouse: Warehouse) -> None:
    warehouse.land({name: json.dumps(LOGIN | event) for name, event in MISPLACED.items()} | {"good": GOOD})
    warehouse.dbt("run")

    assert warehouse.reasons() == {
        "address": ["locale_personal"],
        "in a word": ["device_type_personal"],
        "email": ["user_id_personal"],
        "phone": ["app_version_personal"],
        "the device": ["user_id_personal"],
        "the ip, and the device in capitals": ["device_type_personal", "locale_personal"],
    }


def test_it_is_masked_whole_where_the_policy_says_so_and_can_be_revealed_rotated_and_erased(warehouse: Warehouse) -> None:
    database = warehouse.database
    warehouse.edit("database/6_fields.sql", "('user_id', 'user_id', 128, true, 'reject'", "('user_id', 'user_id', 128, true, 'mask'")
    warehouse.migrate()
    value = "someone@example.com"
    warehouse.land({"good": GOOD, "email": json.dumps(LOGIN | {"user_id": value}), "again": json.dumps(LOGIN | {"user_id": value})})
    warehouse.dbt("build", "--exclude", "assert_few_messages_are_rejected", "test_type:unit")

    for version in ("v1", "v2"):
        first, second, plain = database.rows("select user_id from analytics.user_logins order by user_id = 'u1', 1", "analyst")
        assert (first, plain, first[0].partition(":")[0]) == (second, ("u1",), version)
        assert reveal(warehouse, first[0]) == [(first[0], "user_id", value, 2)]
        database.rows("select recovery.rotate()", "privacy_officer")
    assert database.rows("select raw_messages, logins from recovery.erase(array['someone@example.com'])", "privacy_officer") == [(2, 0)]
    assert warehouse.places() == (["good"], [], [])


def test_a_rule_that_changed_holds_for_earlier_logins_after_a_backfill_and_readers_see_all_old_rows_or_all_new_ones(
    warehouse: Warehouse,
) -> None:
    database = warehouse.database
    warehouse.land({"short": json.dumps(LOGIN | {"locale": "RU"}), "long": json.dumps(LOGIN | {"locale": "zh-Hant-TW"})})
    warehouse.dbt("run")
    # all columns but the random one
    rows = "select to_jsonb(user_logins) - 'login_id' from marts.user_logins where message_id = 'short'"
    before = database.rows(rows)
    warehouse.limit_locale(5)

    with database.connect() as admin:
        foreseen = foresee(admin, warehouse.copy("database"))
    warehouse.dbt("run", "--select", "marts", "--vars", "backfill: true")

    assert foreseen == [("masked", 2, 1)]
    assert warehouse.reasons() == {"long": ["locale_too_long"]}
    assert database.rows(rows) == before
    warehouse.limit_locale(32)
    warehouse.dbt("run-operation", "judge_again")
    warehouse.dbt("run")
    assert warehouse.places() == (["long", "short"], [], [])


def reveal(warehouse: Warehouse, token: str) -> list[tuple[object, ...]]:
    """The values behind *token*, through the four steps."""
    database = warehouse.database
    reveal_id = database.value(f"select recovery.request_reveal(array['{token}'], 'fraud', 'case 1')", "pii_requester")
    database.rows(f"select recovery.approve_reveal('{reveal_id}')", "pii_approver")
    database.rows(f"select recovery.open_reveal('{reveal_id}')", "pii_requester")
    return database.rows(f"select * from recovery.read_reveal('{reveal_id}')", "pii_requester")


@pytest.mark.slow
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

    with pytest.raises(LoaderError) as refusal:
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


@pytest.mark.slow
def test_a_field_that_is_renamed_or_removed_keeps_what_it_gave_and_can_come_back(warehouse: Warehouse) -> None:
    database = warehouse.database
    moved = {"region": {"locale": "RU"}}
    without = {key: value for key, value in LOGIN.items() if key != "locale"}
    locales = "select message_id, locale from marts.user_logins order by 1"
    warehouse.land({"1": json.dumps(LOGIN | {"locale": "US"})})
    warehouse.dbt("run")

    warehouse.edit("database/6_fields.sql", "('locale', 'locale', 32", "('locale', 'region.locale', 32")
    warehouse.migrate()
    warehouse.land({"2": json.dumps(without | moved)})
    warehouse.dbt("run")
    assert database.rows(locales) == [("1", "US"), ("2", "RU")]

    line = "('locale', 'region.locale', 32, false, 'reject', 'one of some two hundred countries'),\n"
    warehouse.edit("database/6_fields.sql", line, "")
    not_taken = "\ninsert into masking.fields (path, reason) values ('region', 'nobody asks for it'), ('locale', 'the former place');\n"
    warehouse.edit("database/6_fields.sql", "\nset local role pipeline_owner", not_taken + "\nset local role pipeline_owner")
    warehouse.edit("dbt_project/models/marts/user_logins.sql", "    locale,\n", "    null::varchar(32) as locale,\n")
    warehouse.migrate()
    warehouse.land({"3": json.dumps(without | moved)})
    warehouse.dbt("build", "--exclude", "assert_few_messages_are_rejected", "test_type:unit")
    assert database.rows(locales) == [("1", "US"), ("2", "RU"), ("3", None)]

    warehouse.edit("database/6_fields.sql", not_taken, "")
    warehouse.edit("database/6_fields.sql", "('app_version', 'app_version', 32", f"{line}('app_version', 'app_version', 32")
    warehouse.edit("dbt_project/models/marts/user_logins.sql", "    null::varchar(32) as locale,\n", "    locale,\n")
    warehouse.migrate()
    warehouse.dbt("run", "--select", "marts", "--vars", "backfill: true")
    assert database.rows(locales) == [("1", None), ("2", "RU"), ("3", "RU")]


def test_a_required_field_can_be_taken_out_and_no_column_changes_its_type(warehouse: Warehouse) -> None:
    line = "('device_type', 'device_type', 32, true, 'reject', 'one of a few kinds'),\n"
    warehouse.edit("database/6_fields.sql", line, "")
    warehouse.edit("dbt_project/models/marts/user_logins.sql", "    device_type,\n", "    null::varchar(32) as device_type,\n")
    warehouse.migrate()
    warehouse.land({"1": GOOD})
    warehouse.dbt("run")
    assert warehouse.places() == (["1"], [], [])

    for kind, length in (("number", "null"), ("string", "null")):
        changed = (
            "\ninsert into masking.fields (column_name, path, json_type, max_length, on_personal, reason)"
            f" values ('device_type', 'kind', '{kind}', {length}, 'reject', 'one of a few kinds');\n"
        )
        warehouse.edit("database/6_fields.sql", "\nset local role pipeline_owner", changed + "\nset local role pipeline_owner")
        with pytest.raises(LoaderError, match=r"6_fields.sql cannot give device_type what stands at kind"):
            warehouse.migrate()
        warehouse.edit("database/6_fields.sql", changed, "")


def test_a_number_that_is_a_personal_value_and_a_text_that_looks_like_a_token_are_personal(warehouse: Warehouse) -> None:
    number = (
        "\ninsert into masking.fields (column_name, path, json_type, on_personal, reason) values"
        " ('score', 'score', 'number', 'reject', 'a count');\n"
    )
    warehouse.edit("database/6_fields.sql", "\nset local role pipeline_owner", number + "\nset local role pipeline_owner")
    warehouse.migrate()
    warehouse.land(
        {
            "number": json.dumps(LOGIN | {"device_id": "358240051111110", "score": 358240051111110}),
            "token": json.dumps(LOGIN | {"locale": "u", "user_id": "v1:" + "a" * 32}),
            "good": json.dumps(LOGIN | {"score": 2}),
        }
    )
    warehouse.dbt("run", "--select", "marts")
    assert warehouse.reasons() == {"number": ["score_personal"], "token": ["user_id_personal"]}


def test_a_dry_run_says_what_would_happen_and_changes_nothing(warehouse: Warehouse) -> None:
    warehouse.limit_locale(5)
    warehouse.land({"long": json.dumps(LOGIN | {"locale": "zh-Hant-TW"}), "good": GOOD})
    warehouse.dbt("run", "--select", "marts")
    warehouse.land({"waiting": "oops"})
    server = warehouse.database.server
    administrator = {"ADMIN_USER": server.user, "ADMIN_PASSWORD": server.password}

    done = support.run(["python", "-m", "loader", "migrate", "--dry-run"], support.environment(warehouse.database) | administrator)

    said = ["waiting: 0 of 1", "rejected: 1 of 1", "masked: 1 of 1"]
    assert (done.returncode, done.stdout, done.stderr) == (0, "".join(f"{line} messages would be masked\n" for line in said), "")
    assert warehouse.database.value("select max_length from masking.fields where column_name = 'locale'") == 5
