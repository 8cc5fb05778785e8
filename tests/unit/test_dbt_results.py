"""What `show` says of the last `dbt test`."""

import json
from pathlib import Path

from sandbox.dbt_results import failed_tests


def test_where_dbt_ran_elsewhere_no_test_has_failed(tmp_path: Path) -> None:
    assert failed_tests(tmp_path) == []


def test_a_failed_test_is_named_with_its_count(tmp_path: Path) -> None:
    results = [
        {"unique_id": "test.user_logins.assert_a.1", "status": "fail", "message": "Got 3 results"},
        {"unique_id": "test.user_logins.assert_b.2", "status": "pass", "message": None},
    ]
    (tmp_path / "run_results.json").write_text(json.dumps({"results": results}))
    assert failed_tests(tmp_path) == ["assert_a: Got 3 results"]
