"""The masking policy in sources.yml is what the database does: no field marked personal gets out but as the token that it names."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import canaries, support
from tests.support import ROOT, Database

SOURCES = ROOT / "dbt_project" / "models" / "staging" / "sources.yml"
POLICY_TEST = ["test", "--select", "assert_every_field_has_a_masking_policy"]


def policy() -> dict[str, dict[str, Any]]:
    """The policy of each field of a message's body."""
    columns = yaml.safe_load(SOURCES.read_text())["sources"][0]["tables"][0]["columns"]
    (body,) = (column for column in columns if column["name"] == "body")
    fields: dict[str, dict[str, Any]] = body["config"]["meta"]["fields"]
    return fields


def tokens_of_policy() -> list[tuple[str, str, dict[str, str]]]:
    """Field, column and rule of every token that the policy promises."""
    personal = {field: rule for field, rule in policy().items() if rule["personal"]}
    return [(field, column, how) for field, rule in personal.items() for column, how in rule["masked_as"].items()]


def test_every_field_is_personal_with_its_tokens_or_not_for_a_reason() -> None:
    for field, rule in policy().items():
        assert rule.keys() == ({"personal", "masked_as"} if rule["personal"] else {"personal", "because"}), field


def test_the_value_of_a_personal_field_reaches_no_relation_but_staging(masked: Database, tmp_path: Path) -> None:
    """A canary for each field that is marked, so that a field that comes to be marked is covered on the same day."""
    values = {field: f"unheard-of {field}" for field, rule in policy().items() if rule["personal"]}

    def relations_with_values() -> set[str]:
        with masked.connect() as connection:
            texts = support.readable(connection)
        return {relation for relation, text in texts.items() if canaries.found_in(text, values.values())}

    support.land(masked, [canaries.login(**values)])
    assert support.dbt(masked, ["run", "--select", "user_logins"], tmp_path).returncode == 0
    staging = {"staging.raw_logins", masked.value("select inhrelid::regclass::text from pg_inherits")}
    assert relations_with_values() == staging
    with masked.connect() as connection:
        connection.execute("update marts.user_logins set masked_device_id = %s", [values["device_id"].upper()])
    # pg_stats may join them, when PostgreSQL happens to analyse the table now
    assert relations_with_values() >= staging | {"marts.user_logins", "analytics.user_logins", "analytics.shared_devices"}


@pytest.mark.parametrize(("field", "column", "how"), tokens_of_policy(), ids=[column for _, column, _ in tokens_of_policy()])
def test_the_column_carries_the_token_that_the_policy_names(masked_for_all: Database, field: str, column: str, how: dict[str, str]) -> None:
    value = {"ip": canaries.IPV6_SPELLED, "device_id": canaries.DEVICE_ID}[field]
    plain = how.get("of", field)
    expected = masked_for_all.value(
        f"select masking.token('{how['domain']}', {plain}) from (select '{value}'::text as {field}) as login", "transformer"
    )
    assert masked_for_all.value(f"select count(*) from analytics.user_logins where {column} = '{expected}'", "analyst") > 0
    if "else_domain" in how:
        expected = masked_for_all.value(f"select masking.token('{how['else_domain']}', '{canaries.NO_ADDRESS}')", "transformer")
        found = masked_for_all.rows(f"select distinct ip_is_valid from analytics.user_logins where {column} = '{expected}'", "analyst")
        assert found == [(False,)]


def test_every_domain_of_the_policy_has_a_key(masked_for_all: Database) -> None:
    domains = {how[key] for *_, how in tokens_of_policy() for key in ("domain", "else_domain") if key in how}
    tombstones = {"erased_user"}
    assert {domain for (domain,) in masked_for_all.rows("select domain from masking.keys")} == domains | tombstones


def test_a_view_for_analysts_is_made_of_marts_alone() -> None:
    models = ROOT / "dbt_project" / "models"
    marts = {path.stem for path in (models / "marts").glob("*.sql")}
    for view in (models / "analytics").glob("*.sql"):
        text = view.read_text()
        assert "source(" not in text, view.stem
        assert {name.split("'")[1] for name in text.split("ref(")[1:]} <= marts | {path.stem for path in view.parent.glob("*.sql")}, (
            view.stem
        )


def land_accepted(database: Database, *bodies: str) -> None:
    """Land logins that are accepted already, each of another user."""
    with database.connect() as connection:
        connection.execute("create temp table accepted as select * from marts.user_logins limit 1")
        for number, message_id in enumerate(support.land(database, bodies)):
            connection.execute("update accepted set message_id = %s, user_id = %s", [message_id, f"u{number}"])
            connection.execute("insert into marts.user_logins select * from accepted")


def test_a_new_field_without_a_policy_fails_a_dbt_test_that_names_it(masked: Database, tmp_path: Path) -> None:
    assert support.dbt(masked, POLICY_TEST, tmp_path).returncode == 0
    land_accepted(masked, *[canaries.login(referrer=f"{canaries.NO_ADDRESS} {number}") for number in range(5)])
    failed = support.dbt(masked, POLICY_TEST, tmp_path)
    assert failed.returncode == 1, failed.stdout
    assert "5 logins carry the field referrer, and it has no masking policy: say in models/staging/sources.yml what it is" in failed.stdout
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
