"""The sandbox's PostgreSQL, without starting it."""

import os
from pathlib import Path

import psutil
import pytest

from sandbox import postgres
from sandbox.errors import SandboxError
from sandbox.postgres import Postgres


@pytest.mark.parametrize("major_version", [15, 16])
def test_a_server_without_locales_of_its_own_takes_the_c_librarys(major_version: int) -> None:
    assert postgres.locale_options(major_version) == ["--locale=C.UTF-8"]


@pytest.mark.parametrize("major_version", [17, 18])
def test_a_server_with_locales_of_its_own_uses_them(major_version: int) -> None:
    assert "--locale-provider=builtin" in postgres.locale_options(major_version)


@pytest.mark.parametrize("content", ["", "\n", f"{os.getpid()}\n"], ids=["nothing", "a line", "its pid"])
def test_a_pid_file_that_is_being_written_is_not_ready(tmp_path: Path, content: str) -> None:
    server = Postgres(tmp_path, 1, "postgres", "unused")
    server.data.mkdir()
    (server.data / "postmaster.pid").write_text(content)
    assert not postgres._is_ready(server, psutil.Process())  # noqa: SLF001  # what `start` waits by


def test_another_postgresql_is_run_from_the_folder_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "postgres").touch()
    monkeypatch.setenv("POSTGRES_BIN", str(tmp_path))
    assert str(tmp_path / "postgres") in Postgres(tmp_path, 1, "postgres", "unused").command


def test_a_folder_without_postgresql_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_BIN", str(tmp_path))
    with pytest.raises(SandboxError, match=f"POSTGRES_BIN is {tmp_path}, and no postgres is there; unset it, or name one"):
        _ = Postgres(tmp_path, 1, "postgres", "unused").command
