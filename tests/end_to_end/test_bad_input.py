"""What a wrong set-up is answered with: one line, a non-zero exit, no secret, nothing lost. The loader's are in integration."""

import os
from pathlib import Path

import pytest

from sandbox.processes import free_port
from tests.support import Queue, run

MIGRATE, SEED, QUERY = ["loader", "migrate"], ["sandbox", "seed"], ["sandbox", "query", "select 1"]
WRONG = "a-wrong-password"
BODY = '{"ip": "192.0.2.1", "device_id": "000-00-0001"}'
CASES: list[tuple[list[str], dict[str, str], int, list[str]]] = [
    (SEED, {"SQS_QUEUE_URL": "foo"}, os.EX_UNAVAILABLE, ["foo", "SQS_QUEUE_URL"]),
    (SEED, {"SQS_QUEUE_URL": ""}, os.EX_CONFIG, ["SQS_QUEUE_URL is not set"]),
    (QUERY, {"ANALYST_PASSWORD": ""}, os.EX_CONFIG, ["ANALYST_PASSWORD is not set"]),
    (MIGRATE, {"PGPORT": "CLOSED"}, os.EX_UNAVAILABLE, ["onnection"]),
    (QUERY, {"PGPORT": "CLOSED"}, os.EX_UNAVAILABLE, ["Connection refused", "make up"]),
    (MIGRATE, {"ADMIN_PASSWORD": WRONG}, os.EX_NOPERM, ["ADMIN_PASSWORD"]),
    (QUERY, {"ANALYST_PASSWORD": WRONG}, os.EX_UNAVAILABLE, ["password authentication failed", "ANALYST_PASSWORD"]),
    (SEED, {"SQS_QUEUE_URL": "ABSENT"}, os.EX_UNAVAILABLE, ["absent", "make up"]),
    (SEED, {"AWS_ENDPOINT_URL": "http://127.0.0.1:CLOSED"}, os.EX_UNAVAILABLE, ["127.0.0.1"]),
    ([*SEED, "no-such-file"], {}, os.EX_NOINPUT, ["no-such-file", "No such file"]),
    ([*SEED, "."], {}, os.EX_NOINPUT, ["Is a directory"]),
]


@pytest.mark.parametrize(("command", "change", "exit_code", "words"), CASES, ids=[f"{' '.join(case[0])} {case[1]}" for case in CASES])
def test_what_is_wrong_is_said_in_one_line_and_loses_nothing(  # noqa: PLR0913, PLR0917  four parameters of the case, three fixtures
    command: list[str], change: dict[str, str], exit_code: int, words: list[str], environment: dict[str, str], queue: Queue, tmp_path: Path
) -> None:
    queue.send(BODY)
    closed, absent = str(free_port()), queue.emulator.queue_url("absent")
    changed = {name: value.replace("CLOSED", closed).replace("ABSENT", absent) for name, value in change.items()}

    made = run(["python", "-m", *command], environment | {"LOADER_TIMEOUT_SECONDS": "2"} | changed, cwd=tmp_path)

    assert made.returncode == exit_code, made.stderr
    assert len(made.stderr.splitlines()) == 1, made.stderr
    assert [word for word in words if word not in made.stderr] == []
    secrets = [WRONG, "192.0.2.1", "000-00-0001", *(value for name, value in environment.items() if name.endswith("_PASSWORD"))]
    assert [secret for secret in (*secrets, "Traceback") if secret in made.stdout + made.stderr] == []
    assert queue.depth() == 1
