"""A copy of the project with a sandbox of its own, as a newcomer's clone is."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.processes import free_port
from tests.support import ROOT, Clone

NOT_IN_A_CLONE = shutil.ignore_patterns(
    ".git", ".venv", ".sandbox", ".env", "*_cache", "__pycache__", ".hypothesis", "target", "logs", "dbt_packages", "node_modules"
)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    stamp = Path(sys.prefix) / "installed"
    if not stamp.exists():
        pytest.skip("make install has not made this Python environment, so a clone cannot share it")
    path = tmp_path_factory.mktemp("clone") / "user-logins"
    shutil.copytree(ROOT, path, ignore=NOT_IN_A_CLONE)
    (path / ".venv").symlink_to(sys.prefix)
    # make compares times: what is installed is new enough for the copied locks
    for lock in path.glob("requirements*.lock"):
        os.utime(lock, (0, 0))
    shutil.copy(path / "sandbox" / "profiles.yml", path / "dbt_project" / "profiles.yml")  # as the installation does
    example = (path / ".env.example").read_text()
    (path / ".env").write_text(example.replace("54320", str(free_port())).replace("4566", str(free_port())))
    made = Clone(path)
    yield made
    assert made.make("clean").returncode == 0
