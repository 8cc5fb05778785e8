"""The masking policy in database/6_fields.sql is what the database does: no personal field gets out but as the token that it names."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import canaries, support
from tests.support import ROOT, Database

POLICY_TEST = ["test", "--select", "assert_every_field_has_a_masking_policy"]
# column, field, value sent, domain, and what the token is made of
TOKENS = [
    ("masked_ip", "ip", canaries.IPV6_SPELLED, "ip", canaries.IPV6),
    ("masked_ip", "ip", canaries.NO_ADDRESS, "invalid_ip", canaries.NO_ADDRESS),
    ("masked_network", "ip", canaries.IPV4, "network", f"{canaries.IPV4_NETWORK}.0/24"),
    ("masked_device_id", "device_id", canaries.DEVICE_ID, "device_id", canaries.DEVICE_ID),
]


def test_every_field_is_personal_with_its_tokens_or_not_for_a_reason(masked_for_all: Database) -> None:
    fields = masked_for_all.rows("select column_name, domain, reason from masking.fields")
    assert len(fields) == 7
    assert all((domain is None) != (reason is None) for _, domain, reason in fields)
    assert {column for column, domain, _ in fields if domain} == {column for column, *_ in TOKENS}
    with masked_for_all.connect(autocommit=False) as connection, pytest.raises(Exception, match="fields_check"):
        connection.execute("update masking.fields set domain = null, canonical_form = null where column_name = 'masked_device_id'")


def test_the_value_of_a_personal_field_reaches_no_relation_but_staging(masked: Database, tmp_path: Path) -> None:
    """A canary for each field that is personal, so that a field that comes to be so is covered on the same day."""
    fields = masked.rows("select distinct field from masking.fields where domain is not null")
    values = {field: f"unheard-of {field}" for (field,) in fields}

    def relations_with_values() -> set[str]:
        with masked.connect() as connection:
            texts = support.readable(connection)
        return {relation for relation, text in texts.items() if canaries.found_in(text, values.values())}

    support.land(masked, [canaries.login(**values)])
    assert support.dbt(masked, ["run", "--select", "user_logins"], tmp_path).returncode == 0
    partition = masked.value("select inhrelid::regclass::text from pg_inherits where inhparent = 'staging.raw_logins'::regclass")
    # a view of the raw logins, for their owner alone
    staging = {"staging.raw_logins", "staging.personal_values", partition}
    assert relations_with_values() == staging
    with masked.connect() as connection:
        connection.execute("update marts.user_logins set masked_device_id = %s", [values["device_id"].upper()])
    # pg_stats may join them, when PostgreSQL happens to analyse the table now
    assert relations_with_values() >= staging | {"marts.user_logins", "analytics.user_logins", "analytics.shared_devices"}


@pytest.mark.parametrize(("column", "field", "value", "domain", "form"), TOKENS)
def test_the_column_carries_the_token_that_the_policy_names(  # noqa: PLR0913, PLR0917  # a row of the table above
    masked_for_all: Database, column: str, field: str, value: str, domain: str, form: str
) -> None:
    declared = masked_for_all.rows(f"select field, domain, fallback_domain from masking.fields where column_name = '{column}'")
    assert (declared[0][0], domain in declared[0][1:]) == (field, True)
    expected = masked_for_all.value(
        f"select masking.token(version, inner_block, outer_block, '{form}') from masking.keys where domain = '{domain}'"
    )
    assert masked_for_all.value(
        f"select bool_and({column} = '{expected}') from marts.user_logins inner join staging.raw_logins using (message_id) "
        f"where staging.event(body) ->> '{field}' = '{value}'"
    )
    valid = masked_for_all.rows(f"select distinct ip_is_valid from analytics.user_logins where {column} = '{expected}'", "analyst")
    assert (domain != "invalid_ip",) in valid


def test_every_domain_of_the_policy_has_a_key_and_no_other(masked_for_all: Database) -> None:
    domains = {domain for row in masked_for_all.rows("select domain, fallback_domain from masking.fields") for domain in row if domain}
    tombstones = {"erased_user"}
    assert {domain for (domain,) in masked_for_all.rows("select domain from masking.keys")} == domains | tombstones


def test_a_view_for_analysts_is_made_of_marts_alone() -> None:
    """But for the one that counts what has landed."""
    models = ROOT / "dbt_project" / "models"
    marts = {path.stem for path in (models / "marts").glob("*.sql")}
    views = {path.stem: path.read_text() for path in (models / "analytics").glob("*.sql")}
    assert [name for name, text in views.items() if "source(" in text] == ["daily_reconciliation"]
    for name, text in views.items():
        assert {named.split("'")[1] for named in text.split("ref(")[1:]} <= marts | set(views), name


def land_accepted(database: Database, *bodies: str) -> None:
    """Land logins that are accepted already, each of another user."""
    with database.connect() as connection:
        connection.execute("create temp table accepted as select * from marts.user_logins limit 1")
        for number, message_id in enumerate(support.land(database, bodies)):
            connection.execute(
                "update accepted set (message_id, sent_at, user_id) = "
                "(select message_id, sent_at, %s from staging.raw_logins where message_id = %s)",
                [f"u{number}", message_id],
            )
            connection.execute("insert into marts.user_logins select * from accepted")


def test_a_new_field_without_a_policy_fails_a_dbt_test_that_names_it(masked: Database, tmp_path: Path) -> None:
    assert support.dbt(masked, POLICY_TEST, tmp_path).returncode == 0
    land_accepted(masked, *[canaries.login(referrer=f"{canaries.NO_ADDRESS} {number}") for number in range(5)])
    failed = support.dbt(masked, POLICY_TEST, tmp_path)
    assert failed.returncode == 1, failed.stdout
    assert "5 logins carry the field referrer, and it has no masking policy: say in database/6_fields.sql what it is" in failed.stdout
    assert "FAIL 1" in failed.stdout
    assert not canaries.found_in(failed.stdout)
    assert not canaries.found_under(tmp_path)


def test_a_name_of_a_field_that_may_be_a_value_is_shown_nowhere(masked: Database, tmp_path: Path) -> None:
    """A producer who means harm puts values into names; what few users share, or what no name looks like, is not printed."""
    personal = "canary_of_one_person"
    of_four: dict[str, Any] = {personal: 1, canaries.IPV6: 1}
    no_names: dict[str, Any] = {canaries.IPV4: 1, canaries.DEVICE_ID: 1, "\x1b]0;canary": 1, "c" * 33: 1}
    land_accepted(masked, *[canaries.login(**of_four)] * 4, *[canaries.login(**no_names)] * 5)
    failed = support.dbt(masked, POLICY_TEST, tmp_path)
    assert failed.returncode == 1, failed.stdout
    assert "28 times a login carries a field whose name may be a value" in failed.stdout
    assert "FAIL 1" in failed.stdout
    outputs = failed.stdout + "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    for name in (personal, canaries.IPV4, canaries.IPV6, canaries.DEVICE_ID, "\x1b]0;canary", "\\u001b]0;canary", "c" * 33):
        assert name not in outputs

    # the guards removed
    project = Path(shutil.copytree(ROOT / "dbt_project", tmp_path / "project", ignore=shutil.ignore_patterns("target", "logs")))
    careless = project / "tests" / "assert_every_field_has_a_masking_policy.sql"
    careless.write_text(careless.read_text().replace("[A-Za-z_]{1,32}", ".*").replace("{{ var('min_group_users') }}", "0"))
    shown = support.dbt(masked, POLICY_TEST, tmp_path / "careless", project).stdout
    for name in (personal, canaries.IPV4, canaries.IPV6, canaries.DEVICE_ID, "c" * 33):
        assert name in shown
