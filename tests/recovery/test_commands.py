"""What the commands say when they cannot: one line, no traceback, an exit code that means something."""

import os
import uuid
from pathlib import Path

import pytest

from sandbox.processes import free_port
from tests.recovery.conftest import Masked
from tests.support import ROOT, environment, run

OFFICER = "PRIVACY_OFFICER_PASSWORD"


@pytest.mark.parametrize(
    ("words", "variables", "exit_code", "said"),
    [
        (["audit-head"], {OFFICER: ""}, os.EX_CONFIG, f"{OFFICER} is not set; set it, or run make up"),
        (["audit-head"], {OFFICER: "wrong"}, os.EX_NOPERM, f"check {OFFICER}"),
        (
            ["audit-head"],
            {"PGPORT": str(free_port())},
            os.EX_UNAVAILABLE,
            "start the server (the sandbox's: make up), or check PGHOST, PGPORT",
        ),
        (["audit-head"], {"PGDATABASE": "nothing"}, os.EX_NOPERM, "PGDATABASE, or run python -m loader migrate"),
        (["approve", "17"], {}, os.EX_DATAERR, "a reveal's id is a UUID"),
        (["approve", str(uuid.UUID(int=0))], {}, os.EX_NOPERM, "reveal refused"),
        (["request", "192.0.2.1", "--purpose", "fraud", "--legal-reference", "case 1"], {}, os.EX_NOPERM, "reveal refused"),
        (["retention", "13"], {}, os.EX_DATAERR, "retention is at least 14 days"),
        (["verify-audit", "head"], {}, os.EX_DATAERR, "an anchor is ENTRY:SEAL"),
        (["verify-audit", "1:abc"], {}, os.EX_DATAERR, "an anchor is ENTRY:SEAL"),
        (["verify-audit", f"1:{64 * '0'}"], {}, 1, "entry 1 of the audit is missing or was changed; 0 entries are there"),
        (["expire"], {"PGUSER": "pii_approver", "PGPASSWORD": "PII_APPROVER_PASSWORD"}, os.EX_NOPERM, "permission denied"),
    ],
)
def test_a_refusal_is_one_line_and_an_exit_code(
    masked_for_module: Masked, words: list[str], variables: dict[str, str], exit_code: int, said: str
) -> None:
    known = environment(masked_for_module)
    done = masked_for_module.run(*words, **{name: known.get(value, value) for name, value in variables.items()})
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "192.0.2.1" not in done.stderr


@pytest.mark.parametrize("command", [["recovery", "audit-head"], ["loader", "migrate"], ["loader", "drain"]], ids=" ".join)
@pytest.mark.parametrize("content", [b"PGUSER=\xff\n", None], ids=["in another encoding", "a broken disk"])
def test_an_env_file_that_cannot_be_read_is_one_line(tmp_path: Path, command: list[str], content: bytes | None) -> None:
    if content is None:
        (tmp_path / ".env").symlink_to("/proc/self/mem")  # there, and every read of it fails, for root too
    else:
        (tmp_path / ".env").write_bytes(content)
    done = run(["python", "-m", *command], {"PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    assert done.returncode == os.EX_NOPERM
    assert done.stderr.startswith(".env cannot be read: ")
    assert done.stderr.count("\n") == 1
