"""`make demo` on events of which most are rejected: it shows what there is all the same, and says why it ends as failed."""

import json
from pathlib import Path

import pytest

from tests.support import Clone

GOOD = {"user_id": "u1", "device_type": "ios", "ip": "192.0.2.1", "device_id": "000-00-0001", "locale": None, "app_version": "2.3.0"}


@pytest.mark.slow
def test_the_tables_are_shown_and_the_failed_test_is_named_until_the_share_is_small(clone: Clone, tmp_path: Path) -> None:
    assert clone.make("clean").returncode == 0
    events = tmp_path / "events.jsonl"
    events.write_text(f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}\noops\noops again\n")

    made = clone.make("demo", f"FILE={events}", timeout_seconds=240)

    assert made.returncode != 0
    tested, shown, tables = made.stdout.partition("analytics.user_logins")
    assert "assert_few_messages_are_rejected" in tested
    assert "Got 50 results, configured to fail if > 20" in tested
    assert shown
    assert "{body_not_json}" in tables
    assert made.stderr.startswith("dbt test failed")

    events.write_text("".join(f"{json.dumps(GOOD)}\n" for _ in range(20)))
    made = clone.make("demo", f"FILE={events}", timeout_seconds=240)

    assert made.returncode == 0, made.stderr
    assert "dbt test failed" not in made.stderr
