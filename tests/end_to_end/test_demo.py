"""`make demo` on the sample, and on the real events where they are: from lines in a file to what an analyst sees."""

import ipaddress
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

from sandbox.sample_events import MALFORMED, NO_ADDRESSES, sample_events
from tests.support import REAL_EVENTS, ROOT, Clone

pytestmark = pytest.mark.slow

RELATIONS = """
select format('%I.%I', nspname, relname)
from pg_class
inner join pg_namespace on pg_namespace.oid = relnamespace
where
    relkind in ('r', 'v', 'm', 'p', 'f')
    and has_schema_privilege(relnamespace, 'usage')
    and has_any_column_privilege(pg_class.oid, 'select')
"""


@dataclass(frozen=True)
class Demo:
    """A clone in which `make demo` ran, and then once more or its steps by hand, and the rows that the first run made."""

    clone: Clone
    logins: list[dict[str, Any]]
    rejected: int
    first: list[tuple[Any, ...]]
    output: str

    def rows(self, query: str, role: str | None = "analyst") -> list[tuple[Any, ...]]:
        """All rows of *query* as *role*, None being the superuser."""
        with self.clone.connect(role) as connection:
            return connection.execute(query.encode()).fetchall()

    @property
    def personal_values(self) -> set[str]:
        """Every ip and device_id that was sent, but for those that the project's own files write out."""
        sent = {login[field] for login in self.logins for field in ("ip", "device_id")} - set(NO_ADDRESSES)
        written = "".join(path.read_text() for path in (ROOT / "dbt_project" / "models").rglob("*.yml"))
        return {value for value in sent if value not in written}


KEPT = (
    "select message_id, user_logins::text from marts.user_logins union all "
    "select message_id, rejected_logins::text from marts.rejected_logins order by 1"
)


@pytest.fixture(scope="module", params=["the sample", pytest.param("the real events", marks=pytest.mark.slow)])
def demo(request: pytest.FixtureRequest, clone: Clone) -> Iterator[Demo]:
    if request.param == "the sample":
        bodies, words, again = list(sample_events()), [], ["make demo"]
        logins = [json.loads(body) for body in bodies if body not in MALFORMED.values()]
    else:
        if not REAL_EVENTS.exists():
            pytest.skip(f"the real events are not there: {REAL_EVENTS.relative_to(ROOT.parent)}")
        bodies, words = REAL_EVENTS.read_text().splitlines(), [f"FILE={REAL_EVENTS}"]
        again = [f"make seed FILE={shlex.quote(str(REAL_EVENTS))}", "make load", "cd dbt_project && dbt run && dbt test"]
        logins = [event for event in map(json.loads, bodies) if "ip" in event]
    first = clone.make("demo", *words, timeout_seconds=240)
    assert first.returncode == 0, first.stdout + first.stderr
    with clone.connect() as connection:
        kept = connection.execute(KEPT).fetchall()
    output = first.stdout + first.stderr
    for command in again:
        made = clone.run("sh", "-c", command, timeout_seconds=240)
        output += made.stdout + made.stderr
        assert made.returncode == 0, made.stdout + made.stderr
    yield Demo(clone, logins, len(bodies) - len(logins), kept, output)
    assert clone.make("clean").returncode == 0


def found_in(values: set[str], connection: psycopg.Connection[Any]) -> dict[str, set[str]]:
    """Which of *values* occur in which relations that the connection's role can read, the catalog's included."""
    found = {}
    for (relation,) in connection.execute(RELATIONS).fetchall():
        try:
            text = "\n".join(str(row) for row in connection.execute(sql.SQL("select r::text from {} as r").format(sql.SQL(relation))))
        except psycopg.Error:
            if relation.startswith("pg_catalog."):
                continue  # a view that calls what this role may not, or what this machine has not
            raise
        hits = {value for value in values if value in text}
        if hits:
            found[relation] = hits
    return found


def test_every_message_is_masked_or_rejected(demo: Demo) -> None:
    counts = "select (select count(*) from staging.raw_logins), (select count(*) from marts.user_logins), "
    counts += "(select count(*) from marts.rejected_logins)"
    sent = len(demo.logins) + demo.rejected
    assert len(demo.first) == sent
    assert demo.rows(counts, None) == [(2 * sent, 2 * len(demo.logins), 2 * demo.rejected)]
    if demo.logins[0]["device_id"].startswith("000"):
        assert (len(demo.logins), demo.rejected) == (988, 12)
    else:
        assert (len(demo.logins), demo.rejected) == (99, 1)


def test_every_rejected_message_has_its_reason(demo: Demo) -> None:
    assert demo.rows("select count(*) from marts.rejected_logins where cardinality(reasons) > 0", None) == [(2 * demo.rejected,)]


def test_a_second_run_changes_no_row_of_the_first(demo: Demo) -> None:
    kept = dict(demo.rows(KEPT, None))
    assert {message_id: kept.get(message_id) for message_id, _ in demo.first} == dict(demo.first)


def test_both_queues_are_empty_at_the_end(demo: Demo) -> None:
    assert "queue: 0 messages, dead-letter queue: 0 messages" in demo.output
    queue = demo.clone.queue
    assert (queue.depth(), queue.depth(queue.dead_letter_url)) == (0, 0)


def test_an_analyst_finds_no_plain_value_in_anything_that_can_be_read(demo: Demo) -> None:
    assert len(demo.personal_values) >= 198
    with demo.clone.connect("analyst") as analyst:
        assert found_in(demo.personal_values, analyst) == {}


def test_plain_values_are_in_the_raw_logins_and_nowhere_else(demo: Demo) -> None:
    with demo.clone.connect() as superuser:
        superuser.execute("analyze")
        found = found_in(demo.personal_values, superuser)
        readers = "select rolname from pg_roles where has_table_privilege(oid, 'staging.personal_values', 'select') "
        readers += "and not rolsuper and rolname !~ '^pg_'"
        assert superuser.execute(readers).fetchall() == [("pipeline_owner",)]
    assert found.pop("staging.raw_logins") == demo.personal_values
    # a view of the raw logins, for recovery alone
    assert found.pop("staging.personal_values") == demo.personal_values
    assert [relation for relation in found if not relation.startswith("staging.raw_logins_")] == []


def test_no_log_artefact_or_output_has_a_plain_value(demo: Demo) -> None:
    written = [*(demo.clone.path / "dbt_project" / "target").rglob("*"), *(demo.clone.path / "dbt_project" / "logs").rglob("*")]
    written += (demo.clone.path / ".sandbox").glob("*.log")
    texts = {str(path): path.read_bytes().decode(errors="replace") for path in written if path.is_file()}
    assert any(path.endswith("run_results.json") for path in texts)
    assert any(path.endswith("dbt.log") for path in texts)
    texts["output"] = demo.output
    assert [(path, value) for path, text in texts.items() for value in demo.personal_values if value in text] == []


def test_tokens_are_as_distinct_as_the_values(demo: Demo) -> None:
    distinct = "select count(distinct masked_ip), count(distinct masked_device_id) from analytics.user_logins"
    addresses = {canonical(login["ip"]) for login in demo.logins}
    devices = {login["device_id"] for login in demo.logins}
    assert demo.rows(distinct) == [(len(addresses), len(devices))]


def test_versions_come_as_sent_and_sort_as_numbers(demo: Demo) -> None:
    sent = sorted(login["app_version"] for login in demo.logins for _ in range(2))
    assert sorted(version for (version,) in demo.rows("select app_version from analytics.user_logins")) == sent
    assert {"2.0", "2.00", "2.3", "2.3.0"} <= set(sent)
    in_order = [version for (version,) in demo.rows("select app_version from analytics.user_logins order by app_version_parts")]
    numbers = [[int(part) for part in version.split(".")] for version in in_order]
    assert numbers == sorted(numbers)


def test_a_null_locale_stays_null(demo: Demo) -> None:
    nulls = sum(login["locale"] is None for login in demo.logins)
    assert nulls >= 29
    assert demo.rows("select count(*) from analytics.user_logins where locale is null") == [(2 * nulls,)]


def test_shared_addresses_and_devices_are_those_that_recur(demo: Demo) -> None:
    for view, token in (("shared_ips", "masked_ip"), ("shared_devices", "masked_device_id")):
        recurring = f"select {token} from analytics.user_logins group by {token} having count(*) > 1"
        assert sorted(demo.rows(f"select {token} from analytics.{view}")) == sorted(demo.rows(recurring))


@pytest.mark.parametrize("relation", ["staging.raw_logins", "marts.user_logins", "marts.rejected_logins", "masking.keys"])
def test_an_analyst_is_refused_what_lies_below_the_views(demo: Demo, relation: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        demo.rows(f"select from {relation}")


def canonical(address: str) -> str:
    """One spelling per address; what is no address stays as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
