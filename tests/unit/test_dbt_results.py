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
    (tmp_path / "run_results.json").write_text(json.dumps({"args": {"which": "test"}, "results": results}))
    assert failed_tests(tmp_path) == ["assert_a: Got 3 results"]


def test_what_the_server_said_of_an_error_is_not_repeated(tmp_path: Path) -> None:
    results = [{"unique_id": "test.user_logins.assert_a.1", "status": "error", "message": "invalid input syntax: 192.0.2.1"}]
    (tmp_path / "run_results.json").write_text(json.dumps({"args": {"which": "test"}, "results": results}))
    assert failed_tests(tmp_path) == ["assert_a: an error, see above"]


def test_the_results_of_another_command_are_no_tests(tmp_path: Path) -> None:
    results = [{"unique_id": "model.user_logins.user_logins", "status": "error", "message": "no"}]
    (tmp_path / "run_results.json").write_text(json.dumps({"args": {"which": "run"}, "results": results}))
    assert failed_tests(tmp_path) == []
