import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sandbox import processes

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)", "/of-the-sandbox"]


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[psutil.Process]:
    process = processes.start(SLEEP, tmp_path / "log")
    yield process
    processes.stop(process, signal.SIGKILL)


def test_a_process_is_found_again_by_its_pid_and_its_argument(sleeper: psutil.Process, tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(f"{sleeper.pid}\nmore lines")
    # the kernel shows no command line in the instant of an exec
    assert processes.wait_until(lambda: processes.find(tmp_path / "pid", Path("/of-the-sandbox")) == sleeper, 30)


def test_a_stranger_with_the_same_pid_is_not_taken_for_it(sleeper: psutil.Process, tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(str(sleeper.pid))
    assert processes.find(tmp_path / "pid", Path("/of-another-sandbox")) is None
    assert sleeper.is_running()


@pytest.mark.parametrize("content", ["", "no number", "2147483647"])
def test_a_broken_or_outdated_pid_file_finds_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "pid").write_text(content)
    assert processes.find(tmp_path / "pid", Path("/of-the-sandbox")) is None


def test_a_process_that_ignores_the_gentle_signal_is_killed(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    process = processes.start([sys.executable, "-c", deaf], tmp_path / "log")
    assert processes.wait_until(lambda: (tmp_path / "log").read_text() == "deaf\n", 30)
    processes.stop(process, timeout_seconds=0.2)
    assert not processes.runs(process)
