import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sandbox import processes

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[psutil.Process]:
    process = processes.start("a sleeper", SLEEP, os.environ, tmp_path / "record", tmp_path / "log")
    yield process
    processes.stop(process, signal.SIGKILL, 10)


def test_a_process_is_found_again_by_its_record(sleeper: psutil.Process, tmp_path: Path) -> None:
    assert processes.find(tmp_path / "record") == sleeper


@pytest.mark.parametrize("change", [{"started_at": 0}, {"command": ["/bin/another"]}, {"pid": 0x7FFFFFFF}])
def test_a_stranger_with_the_same_pid_is_not_taken_for_it(sleeper: psutil.Process, tmp_path: Path, change: dict[str, object]) -> None:
    record = tmp_path / "record"
    record.write_text(json.dumps(json.loads(record.read_text()) | change))
    assert processes.find(record) is None
    assert sleeper.is_running()


def test_a_process_in_the_instant_of_its_exec_is_found(sleeper: psutil.Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [[], [], SLEEP]  # as the kernel shows it meanwhile
    monkeypatch.setattr(psutil.Process, "cmdline", lambda _: shown.pop(0))
    assert processes.find(tmp_path / "record") == sleeper


@pytest.mark.parametrize("content", ["", "{}", "no json"])
def test_a_broken_record_finds_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "record").write_text(content)
    assert processes.find(tmp_path / "record") is None


def test_a_process_that_ignores_the_gentle_signal_is_killed(tmp_path: Path) -> None:
    stubborn = [
        sys.executable,
        "-c",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
    ]
    process = processes.start("a stubborn one", stubborn, os.environ, tmp_path / "record", tmp_path / "log")
    assert processes.wait_until(lambda: (tmp_path / "log").read_text() == "deaf\n", 30)
    processes.stop(process, signal.SIGTERM, timeout_seconds=0.2)
    assert not processes.runs(process)
    assert processes.find(tmp_path / "record") is None
