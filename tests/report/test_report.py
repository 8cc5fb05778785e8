"""The analysts' page, opened in a browser: it says what the tables say, in UTC, and asks nobody for anything."""

import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox import report
from sandbox.sample_events import MALFORMED, NO_ADDRESSES, sample_events
from tests import canaries, support
from tests.support import ROOT, Database

BROWSER = Path(__file__).parent
DRAWN = pytest.mark.skipif(not (ROOT / report.DCT).exists(), reason="make test-all installs dbt-charts, and has not")
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Page:
    """What a browser found in report.html."""

    requests: list[str]
    complaints: list[str]
    charts: dict[str, dict[str, list[str]]]
    text: str

    def counts(self, chart: str) -> dict[str, int]:
        """The value of each bar of *chart*, those of equal labels together; a bar drawn twice for a label counts once."""
        labels = self.charts[chart]["labels"]
        parts = [re.sub(r"[^\x20-\x7e]", "", label).split("; ") for label in (dict.fromkeys(labels) if chart != "hourly" else labels)]
        counts: dict[str, int] = {}
        for label, *_, value in ([part for part in each if not part.startswith(": ")] for each in parts):
            counts[label] = counts.get(label, 0) + int(value.rpartition(": ")[2])
        return counts


@pytest.fixture(scope="module")
def drawn(masked_for_all: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    ran = support.run(["python", "-m", "sandbox", "report", str(folder)], support.environment(masked_for_all))
    assert (ran.returncode, ran.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def page(drawn: Path) -> Page:
    node = shutil.which("node")
    if not node or not (BROWSER / "node_modules").exists():
        pytest.skip("make test-all installs a browser where there is npm, and has not")
    ran = subprocess.run([node, "open.mjs", str(drawn / "report.html")], cwd=BROWSER, capture_output=True, text=True, check=False)
    if ran.returncode == os.EX_UNAVAILABLE:
        pytest.skip(ran.stderr.strip())
    assert ran.returncode == 0, ran.stderr
    return Page(**json.loads(ran.stdout))


@DRAWN
@pytest.mark.slow
def test_the_page_loads_nothing_and_complains_of_nothing(page: Page) -> None:
    asked = [url for url in page.requests if not url.startswith("data:")]
    assert [url.rpartition("/")[2] for url in asked] == ["report.html"]
    assert page.complaints == []


@DRAWN
@pytest.mark.slow
def test_the_page_says_what_the_tables_say(page: Page, masked_for_all: Database) -> None:
    def told(query: str) -> dict[str, Any]:
        return dict(masked_for_all.rows(query))

    ((logins, users, newest),) = masked_for_all.rows(
        "select count(*), count(distinct user_id), to_char(max(sent_at) at time zone 'UTC', 'DD Mon HH24:MI') from marts.user_logins"
    )
    assert logins > 988
    assert [page.charts[chart]["texts"][0] for chart in ("logins", "users", "newest")] == [f"{logins:,}", str(users), newest]
    assert sum(page.counts("hourly").values()) == logins
    assert sum(page.counts("versions").values()) == logins
    assert page.counts("countries") == told("select coalesce(ip_country, 'not known'), count(*) from marts.user_logins group by ip_country")
    bursts = told(
        "select to_char(began_at at time zone 'UTC', 'DD Mon HH24:MI ') || case identifier when 'ip' then 'address ' else 'device ' end"
        " || left(masked_value, 11), logins from analytics.bursts"
    )
    assert len(page.counts("bursts")) == 15
    assert page.counts("bursts").items() <= bursts.items()
    shared = told(
        "select format('%s %s: %s users', kind, token, users), users from ("
        "select 'device' as kind, masked_device_id as token, distinct_users as users from analytics.shared_devices union all "
        "select 'address', masked_ip, distinct_users from analytics.shared_ips) as shared"
    )
    tokens = [title for title in page.charts["sharing"]["titles"] if not title.startswith("user ")]
    assert [shared[token] for token in tokens] == sorted(shared.values(), reverse=True)[:20]


@DRAWN
@pytest.mark.slow
def test_no_plain_value_is_in_the_page(page: Page, drawn: Path) -> None:
    logins = [json.loads(body) for body in sample_events() if body not in MALFORMED.values()]
    plain = {login[field] for login in logins for field in ("ip", "device_id")} - set(NO_ADDRESSES)
    plain |= {form for value in canaries.VALUES for form in canaries.forms(value)}
    for text in (page.text, (drawn / "report.html").read_text()):
        assert re.search(r"v1:[0-9a-f]{32}", text)
        assert [value for value in plain if value in text] == []


@DRAWN
@pytest.mark.slow
def test_a_picture_is_drawn_too(drawn: Path) -> None:
    picture = (drawn / "report.png").read_bytes()
    assert picture.startswith(PNG)
    assert len(picture) > 100_000


@pytest.fixture
def board(masked: Database) -> Iterator[str]:
    """The address at which `board` serves *masked*."""
    command = [str(ROOT / ".venv/bin/python"), "-m", "sandbox", "board"]
    environ = support.environment(masked) | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout
        try:
            yield next(found[0] for line in server.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+(?= \()", line)))
        finally:
            server.terminate()


@DRAWN
@pytest.mark.slow
def test_an_erasure_reaches_the_board_at_once(board: str, masked: Database) -> None:
    def shown() -> bool:
        with urllib.request.urlopen(f"{board}/logins/", timeout=60) as answer:  # noqa: S310  an address on this machine
            return erased in answer.read().decode()

    # whoever logged in most shares a token with others
    erased = masked.value("select user_id from analytics.user_activity order by distinct_ips + distinct_devices desc, logins desc limit 1")
    assert shown()
    masked.execute(f"delete from marts.user_logins where user_id = '{erased}'")
    assert not shown()


def test_what_cannot_be_drawn_is_said_in_one_line(database: Database, tmp_path: Path) -> None:
    environ = support.environment(database)
    expected = {
        "no views": (
            environ,
            'relation "analytics.bursts" does not exist at character 13; run make demo, or dbt run, which makes the views',
        ),
        "no password": (environ | {"ANALYST_PASSWORD": ""}, "ANALYST_PASSWORD is not set; set it, or run make up, which writes .env"),
        "no server": (environ | {"PGPORT": "1"}, "; run make up, or correct PGHOST, PGPORT and ANALYST_PASSWORD"),
    }
    (tmp_path / "dbt_project").symlink_to(ROOT / "dbt_project")
    for case, (variables, said) in expected.items():
        for command in ("report", "board"):
            ran = support.run(["python", "-m", "sandbox", command], variables, cwd=tmp_path)
            assert ran.returncode != 0, case
            assert ran.stderr.endswith(said + "\n"), (case, ran.stderr)
            assert ran.stderr.count("\n") == 1


def test_dbt_knows_what_the_board_reads() -> None:
    board = (ROOT / report.DBT_PROJECT / report.BOARD).read_text()
    exposures = yaml.safe_load((ROOT / "dbt_project/models/analytics/exposures.yml").read_text())["exposures"]
    (depends_on,) = (exposure["depends_on"] for exposure in exposures if exposure["name"] == "board")
    read = {view.replace("analytics.user_logins", "analytics_user_logins") for view in re.findall(r"\banalytics\.\w+", board)}
    assert {f"ref('{view.removeprefix('analytics.')}')" for view in read} == set(depends_on)
