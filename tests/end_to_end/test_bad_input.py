"""What a wrong set-up is answered with: one line, a non-zero exit, no secret, nothing lost."""

import os
from pathlib import Path

import pytest

from sandbox.processes import free_port
from tests.support import Queue, run

DRAIN = ["python", "-m", "loader", "drain"]
MIGRATE = ["python", "-m", "loader", "migrate"]
SEED = ["python", "-m", "sandbox", "seed"]
QUERY = ["python", "-m", "sandbox", "query", "select 1"]
WRONG = "a-wrong-password"
NO_URL = "SQS_QUEUE_URL is 'foo': string should match pattern '^https?://'; see .env.example"
BODY = '{"ip": "192.0.2.1", "device_id": "000-00-0001"}'


@pytest.mark.parametrize(
    ("command", "change", "exit_code", "words"),
    [
        (DRAIN, {"SQS_QUEUE_URL": ""}, os.EX_CONFIG, ["SQS_QUEUE_URL is not set"]),
        (DRAIN, {"SQS_QUEUE_URL": "foo"}, os.EX_CONFIG, [NO_URL]),
        (SEED, {"SQS_QUEUE_URL": "foo"}, os.EX_UNAVAILABLE, ["foo", "SQS_QUEUE_URL"]),
        (DRAIN, {"PGHOST": ""}, os.EX_CONFIG, ["PGHOST is not set"]),
        (MIGRATE, {"PGHOST": ""}, os.EX_CONFIG, ["PGHOST is not set"]),
        (SEED, {"SQS_QUEUE_URL": ""}, os.EX_CONFIG, ["SQS_QUEUE_URL is not set"]),
        (QUERY, {"ANALYST_PASSWORD": ""}, os.EX_CONFIG, ["ANALYST_PASSWORD is not set"]),
        (DRAIN, {"LOADER_RECEIVERS": "many"}, os.EX_CONFIG, ["LOADER_RECEIVERS", "many"]),
        (DRAIN, {"PGPORT": "FREE"}, os.EX_UNAVAILABLE, ["onnection"]),
        (MIGRATE, {"PGPORT": "FREE"}, os.EX_UNAVAILABLE, ["onnection"]),
        (QUERY, {"PGPORT": "FREE"}, os.EX_UNAVAILABLE, ["Connection refused", "make up"]),
        (DRAIN, {"LOADER_PASSWORD": WRONG}, os.EX_NOPERM, ["LOADER_PASSWORD"]),
        (MIGRATE, {"ADMIN_PASSWORD": WRONG}, os.EX_NOPERM, ["ADMIN_PASSWORD"]),
        (QUERY, {"ANALYST_PASSWORD": WRONG}, os.EX_UNAVAILABLE, ["password authentication failed", "ANALYST_PASSWORD"]),
        (DRAIN, {"SQS_QUEUE_URL": "ABSENT"}, os.EX_UNAVAILABLE, ["absent"]),
        (SEED, {"SQS_QUEUE_URL": "ABSENT"}, os.EX_UNAVAILABLE, ["absent", "make up"]),
        (DRAIN, {"AWS_ENDPOINT_URL": "FREE", "SQS_QUEUE_URL": "FREE"}, os.EX_UNAVAILABLE, ["127.0.0.1"]),
        (SEED, {"AWS_ENDPOINT_URL": "FREE"}, os.EX_UNAVAILABLE, ["127.0.0.1"]),
        ([*SEED, "no-such-file"], {}, os.EX_NOINPUT, ["no-such-file", "No such file"]),
        ([*SEED, "."], {}, os.EX_NOINPUT, ["Is a directory"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else ",".join(value) if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_said_in_one_line_and_loses_nothing(  # noqa: PLR0913, PLR0917  four parameters of the case, three fixtures
    command: list[str],
    change: dict[str, str],
    exit_code: int,
    words: list[str],
    environment: dict[str, str],
    queue: Queue,
    tmp_path: Path,
) -> None:
    queue.send(BODY)
    closed = str(free_port())
    special = {
        ("PGPORT", "FREE"): closed,
        ("AWS_ENDPOINT_URL", "FREE"): f"http://127.0.0.1:{closed}",
        ("SQS_QUEUE_URL", "FREE"): f"http://127.0.0.1:{closed}/000000000000/login-queue",
        ("SQS_QUEUE_URL", "ABSENT"): queue.emulator.queue_url("absent"),
    }
    changed = {name: special.get((name, value), value) for name, value in change.items()}
    made = run(command, environment | {"LOADER_TIMEOUT_SECONDS": "2"} | changed, cwd=tmp_path)
    assert made.returncode == exit_code, made.stderr
    errors = made.stderr.splitlines()
    assert len(errors) == 1, made.stderr
    for word in words:
        assert word in errors[0]
    told = made.stdout + made.stderr
    for secret in (WRONG, "192.0.2.1", "000-00-0001", *(value for name, value in environment.items() if name.endswith("_PASSWORD"))):
        assert secret not in told
    assert "Traceback" not in told
    assert queue.depth() == 1


def test_an_unreadable_file_is_said_in_one_line(environment: dict[str, str], queue: Queue, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read any file")
    path = tmp_path / "events.jsonl"
    path.write_text(BODY)
    path.chmod(0)
    made = run([*SEED, str(path)], environment, cwd=tmp_path)
    assert made.returncode == os.EX_NOINPUT
    assert "Permission denied" in made.stderr
    assert len(made.stderr.splitlines()) == 1
    assert queue.depth() == 0
