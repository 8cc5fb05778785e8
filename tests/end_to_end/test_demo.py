"""`make demo` on the sample, and on the real events where they are: from lines in a file to what an analyst sees."""

import ipaddress
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.sample_events import MALFORMED, NO_ADDRESSES, sample_events
from tests.support import REAL_EVENTS, ROOT, Clone, readable

pytestmark = pytest.mark.slow

GOOD = {"user_id": "u1", "device_type": "ios", "ip": "192.0.2.1", "device_id": "000-00-0001", "locale": None, "app_version": "2.3.0"}
KEPT = (
    "select message_id, user_logins::text from marts.user_logins union all "
    "select message_id, rejected_logins::text from marts.rejected_logins order by 1"
)


@dataclass(frozen=True)
class Demo:
    """A clone in which `make demo` ran, and then once more or its steps by hand, and the rows that the first run made."""

    clone: Clone
    logins: list[dict[str, Any]]
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

    def relations_with_personal_values(self, role: str | None) -> set[str]:
        """Those that *role* can read, the catalog's included."""
        with self.clone.connect(role) as connection:
            connection.execute("analyze" if role is None else "")
            texts = readable(connection)
        return {relation for relation, text in texts.items() if any(value in text for value in self.personal_values)}


@pytest.fixture(scope="module", params=["the sample", "the real events"])
def demo(request: pytest.FixtureRequest, clone: Clone) -> Iterator[Demo]:
    if request.param == "the sample":
        bodies, words, again = list(sample_events()), [], ["make demo"]
        logins = [json.loads(body) for body in bodies if body not in MALFORMED.values()]
        counts = (988, 12)
    else:
        if not REAL_EVENTS.exists():
            pytest.skip(f"the real events are not there: {REAL_EVENTS.relative_to(ROOT.parent)}")
        bodies, words = REAL_EVENTS.read_text().splitlines(), [f"FILE={REAL_EVENTS}"]
        again = [f"make seed FILE={shlex.quote(str(REAL_EVENTS))}", "make load", "cd dbt_project && dbt run && dbt test"]
        logins = [event for event in map(json.loads, bodies) if "ip" in event]
        counts = (99, 1)
    assert (len(logins), len(bodies) - len(logins)) == counts
    first = clone.make("demo", *words, timeout_seconds=240)
    assert first.returncode == 0, first.stdout + first.stderr
    with clone.connect() as connection:
        kept = connection.execute(KEPT).fetchall()
    assert len(kept) == len(bodies)
    output = first.stdout + first.stderr
    for command in again:
        made = clone.run("sh", "-c", command, timeout_seconds=240)
        output += made.stdout + made.stderr
        assert made.returncode == 0, made.stdout + made.stderr
    yield Demo(clone, logins, kept, output)
    assert clone.make("clean").returncode == 0


def test_every_message_is_masked_or_rejected_once_and_a_second_run_changes_no_row_of_the_first(demo: Demo) -> None:
    counts = (
        "select (select count(*) from staging.raw_logins), (select count(*) from marts.user_logins), "
        "(select count(*) from marts.rejected_logins where cardinality(reasons) > 0)"
    )
    sent, logins = len(demo.first), len(demo.logins)
    assert demo.rows(counts, None) == [(2 * sent, 2 * logins, 2 * (sent - logins))]
    kept = dict(demo.rows(KEPT, None))
    assert {message_id: kept.get(message_id) for message_id, _ in demo.first} == dict(demo.first)
    assert "queue: 0 messages, dead-letter queue: 0 messages" in demo.output
    queue = demo.clone.queue
    assert (queue.depth(), queue.depth(queue.dead_letter_url)) == (0, 0)


def test_plain_values_are_in_the_raw_logins_and_nowhere_else(demo: Demo) -> None:
    assert len(demo.personal_values) >= 198
    assert demo.relations_with_personal_values("analyst") == set()
    found = demo.relations_with_personal_values(None)
    # the last is a view of the first, for recovery alone
    assert {relation.split("_20")[0] for relation in found} == {"staging.raw_logins", "staging.message_users", "staging.personal_values"}


def test_no_log_artefact_or_output_has_a_plain_value(demo: Demo) -> None:
    written = [*(demo.clone.path / "dbt_project" / "target").rglob("*"), *(demo.clone.path / "dbt_project" / "logs").rglob("*")]
    written += (demo.clone.path / ".sandbox").glob("*.log")
    texts = {path.name: path.read_bytes().decode(errors="replace") for path in written if path.is_file()}
    assert {"run_results.json", "dbt.log", "postgres.log"} <= texts.keys()
    texts["output"] = demo.output
    assert [(name, value) for name, text in texts.items() for value in demo.personal_values if value in text] == []


def test_an_analyst_sees_tokens_as_distinct_as_the_values_and_versions_and_locales_as_sent(demo: Demo) -> None:
    addresses = {canonical(login["ip"]) for login in demo.logins}
    devices = {login["device_id"] for login in demo.logins}
    nulls = sum(login["locale"] is None for login in demo.logins)
    assert nulls >= 29
    counts = "count(distinct masked_ip), count(distinct masked_device_id), count(*) filter (where locale is null)"
    assert demo.rows(f"select {counts} from analytics.user_logins") == [(len(addresses), len(devices), 2 * nulls)]

    in_order = [version for (version,) in demo.rows("select app_version from analytics.user_logins order by app_version_parts")]
    assert sorted(in_order) == sorted(login["app_version"] for login in demo.logins for _ in range(2))
    numbers = [[int(part) for part in version.split(".")] for version in in_order]
    assert numbers == sorted(numbers)


def canonical(address: str) -> str:
    """One spelling per address; what is no address stays as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def test_where_most_are_rejected_the_tables_are_shown_and_the_failed_test_is_named_until_the_share_is_small(
    clone: Clone, tmp_path: Path
) -> None:
    assert clone.make("clean").returncode == 0
    events, good = tmp_path / "events.jsonl", json.dumps(GOOD)
    events.write_text(f"{good}\n{good}\noops\noops again\n")

    made = clone.make("demo", f"FILE={events}", timeout_seconds=240)

    assert made.returncode != 0
    tested, _, tables = made.stdout.partition("analytics.user_logins")
    assert "Got 50 results, configured to fail if > 20" in tested
    assert "{body_not_json}" in tables
    assert made.stderr.startswith("dbt test failed")

    events.write_text(f"{good}\n" * 20)
    made = clone.make("demo", f"FILE={events}", timeout_seconds=240)

    assert made.returncode == 0, made.stderr
    assert "dbt test failed" not in made.stderr
