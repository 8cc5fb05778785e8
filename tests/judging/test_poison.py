"""Whatever a body holds: its message ends once, masked or rejected for the right reason, and no log or artefact has its content."""

import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from sandbox.postgres import Postgres
from tests.judging import poison
from tests.judging.conftest import Warehouse
from tests.support import copied, dbt

GENERATED = 20_000 if os.environ.get("FAULTS") == "full" else 1_000
SEED = 20_240_229
NEIGHBOURS = 100


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    return {f"generated-{number}": body for number, body in enumerate(poison.generated(GENERATED, SEED))}


@pytest.fixture(scope="module")
def poisoned(
    postgres_server: Postgres,
    passwords: Mapping[str, str],
    template: str,
    tmp_path_factory: pytest.TempPathFactory,
    generated: dict[str, str],
) -> Iterator[Warehouse]:
    """All bodies landed, judged and tested by dbt as a person calls it."""
    with copied(postgres_server, passwords, "poisoned", template) as database:
        warehouse = Warehouse(database, tmp_path_factory.mktemp("poisoned"))
        bodies = {f"poison {what}"[:100]: body for what, (body, _) in poison.CORPUS.items()}
        good = {f"neighbour-{number}": poison.login(user_id=f"n{number}") for number in range(NEIGHBOURS)}
        everything = list((bodies | generated | good).items())
        everything.sort(key=lambda message: zlib.crc32(message[0].encode()))  # good and bad ones mixed
        warehouse.land(dict(everything))
        # many are rejected, and some have fields that no policy names: that is what they are for
        unlike_life = ["assert_few_messages_are_rejected", "assert_every_field_has_a_masking_policy"]
        for words in (["run"], ["test", "--exclude", *unlike_life], ["docs", "generate"]):
            ran = dbt(database, words, warehouse.directory)
            assert ran.returncode == 0, ran.stdout
        yield warehouse


def holding(warehouse: Warehouse, values: list[str]) -> list[str]:
    """The files under the warehouse's directory that hold one of *values*."""
    found = []
    for path in warehouse.directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found += [path.name for value in values if value.encode() in content]
    return found


PLANTED = [poison.PLANTED_IP, poison.PLANTED_DEVICE, "2001:db8:bad:", "203.0.113."]


def test_every_poisonous_body_ends_as_it_must(poisoned: Warehouse) -> None:
    valid = dict(poisoned.database.rows("select message_id, ip_is_valid from marts.user_logins"))
    rejected = poisoned.rejected()
    found = {}
    for what in poison.CORPUS:
        message_id = f"poison {what}"[:100]
        masked_as = [poison.VALID if valid[message_id] else poison.INVALID_IP] if message_id in valid else []
        found[what] = [*masked_as, *([rejected[message_id]] if message_id in rejected else [])]

    assert {what: ends for what, ends in found.items() if ends != [poison.CORPUS[what][1]]} == {}


def test_generated_bodies_end_as_a_second_judge_says(poisoned: Warehouse, generated: dict[str, str]) -> None:
    masked, rejected = set(poisoned.masked()), poisoned.rejected()

    wrong = {
        body: (message_id in masked, rejected.get(message_id), expected)
        for message_id, body in generated.items()
        if (message_id in masked, rejected.get(message_id, [])) != (not (expected := poison.judge(body)), expected)
    }

    assert wrong == {}
    kinds = {reason for reasons in rejected.values() for reason in reasons}
    assert len(kinds) > 15, "the bodies must try many rules"
    assert sum(message_id in masked for message_id in generated) > GENERATED / 10


def test_generated_addresses_are_valid_where_a_second_judge_says_so(poisoned: Warehouse, generated: dict[str, str]) -> None:
    said = dict(poisoned.database.rows("select message_id, ip_is_valid from marts.user_logins where message_id like 'generated-%'"))

    wrong = {generated[message_id]: valid for message_id, valid in said.items() if valid != poison.is_address(generated[message_id])}

    assert wrong == {}
    assert {True, False} == set(said.values())


def test_good_neighbours_are_masked(poisoned: Warehouse) -> None:
    assert sum(message_id.startswith("neighbour-") for message_id in poisoned.masked()) == NEIGHBOURS


def test_no_log_and_no_artefact_holds_a_value(poisoned: Warehouse) -> None:
    assert (poisoned.directory / "target" / "run_results.json").exists()
    assert (poisoned.directory / "target" / "catalog.json").exists()
    assert (poisoned.directory / "logs" / "dbt.log").stat().st_size > 10_000
    assert holding(poisoned, PLANTED) == []


def test_a_row_that_the_database_refuses_and_prints_holds_no_value(poisoned: Warehouse) -> None:
    with poisoned.database.connect() as connection:
        connection.execute("alter table marts.user_logins add constraint refusing check (user_id <> 'refused')")
    try:
        poisoned.land({"refused": poison.login(user_id="refused")})
        ran = dbt(poisoned.database, ["run"], poisoned.directory)
    finally:
        with poisoned.database.connect() as connection:
            connection.execute("alter table marts.user_logins drop constraint refusing")

    assert ran.returncode == 1
    assert "DETAIL:  Failing row contains (refused, ios, v1:" in ran.stdout
    assert holding(poisoned, PLANTED) == []


def test_the_search_finds_a_value_that_somebody_prints(poisoned: Warehouse, tmp_path: Path) -> None:
    shown = "select body::jsonb ->> 'ip' as ip from staging.raw_logins where message_id = 'neighbour-1'"
    dbt(poisoned.database, ["show", "--inline", shown], tmp_path)

    assert "output" in holding(Warehouse(poisoned.database, tmp_path), PLANTED)
