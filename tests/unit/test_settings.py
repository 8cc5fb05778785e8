import os
import stat
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import yaml
from dotenv import dotenv_values

from loader.errors import LoaderError
from loader.settings import LoaderSettings, read
from sandbox.errors import SandboxError
from sandbox.settings import complete_env_file, load_env_file, read_settings, write_dbt_profile
from tests.support import ROOT

SANDBOX = {
    "PGHOST": "127.0.0.1",
    "PGPORT": "54320",
    "PGDATABASE": "user_logins",
    "ADMIN_PASSWORD": "made-up",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:4566",
    "SQS_QUEUE_URL": "http://127.0.0.1:4566/000000000000/login-queue",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with `.env.example` and dbt's profile, and an environment that says nothing of ours."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env.example").write_bytes((ROOT / ".env.example").read_bytes())
    profiles = tmp_path / "dbt_project" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "profiles.yml").write_bytes((ROOT / "dbt_project" / "profiles" / "profiles.yml").read_bytes())
    with mock.patch.dict(os.environ):
        for name in dotenv_values(ROOT / ".env.example"):
            os.environ.pop(name, None)
        yield tmp_path


def test_the_example_says_the_loaders_defaults() -> None:
    commented = (ROOT / ".env.example").read_text().replace("# LOADER_", "LOADER_").splitlines()
    said = dict(line.split("=", 1) for line in commented if line.startswith("LOADER_") and "PASSWORD" not in line)
    defaults = {name.upper(): field.default for name, field in LoaderSettings.model_fields.items() if name.startswith("loader_")}
    assert said
    assert {name: type(defaults[name])(value) for name, value in said.items()} == {name: defaults[name] for name in said}


GOOD = {"SQS_QUEUE_URL": "http://127.0.0.1:1/000000000000/login-queue", "PGHOST": "127.0.0.1"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SQS_QUEUE_URL", None),
        ("SQS_QUEUE_URL", ""),
        ("SQS_QUEUE_URL", "login-queue"),
        ("PGHOST", None),
        ("PGHOST", ""),
        ("LOADER_RECEIVERS", "many"),
        ("LOADER_RECEIVERS", "0"),
        ("LOADER_BATCH_SECONDS", "-1"),
        ("LOADER_MAX_HELD_MESSAGES", "9"),
        ("LOADER_GRACE_SECONDS", "5"),
        ("LOADER_HTTP_PORT", "70000"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_missing_or_wrong_variable_is_named_with_what_was_found(variable: str, value: str | None) -> None:
    os.environ.update(GOOD)
    assert read(LoaderSettings).pghost == "127.0.0.1"
    os.environ.pop(variable, None)
    os.environ.update({variable: value} if value is not None else {})
    said = f"is '{value}': .*" if value else "is not set"
    with pytest.raises(LoaderError, match=f"^{variable} {said}; see .env.example, or run make up, which writes .env$") as caught:
        read(LoaderSettings)
    assert caught.value.exit_code == os.EX_CONFIG


def test_the_first_env_file_is_private_and_has_random_passwords(folder: Path) -> None:
    written = complete_env_file(os.environ)
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    passwords = {name: value for name, value in dotenv_values(".env").items() if name.endswith("_PASSWORD")}
    assert set(written) == set(passwords)
    assert len(set(passwords.values())) == len(passwords) == 8
    assert all(len(value or "") >= 32 for value in passwords.values())


def test_values_of_ones_own_stay_and_what_is_missing_is_filled_in(folder: Path) -> None:
    (folder / ".env").write_text("PGPORT=6000\nANALYST_PASSWORD='it is $mine'\nLOADER_PASSWORD=\n# a remark\n")
    complete_env_file(os.environ)
    values = dotenv_values(".env")
    assert values["PGPORT"] == "6000"
    assert values["ANALYST_PASSWORD"] == "it is $mine"
    assert values["LOADER_PASSWORD"]
    assert values["PGDATABASE"] == "user_logins"
    assert "# a remark" in (folder / ".env").read_text()
    before = (folder / ".env").read_text()
    assert complete_env_file(os.environ) == []
    assert (folder / ".env").read_text() == before


def test_a_password_of_the_environment_is_written_and_no_credentials_of_the_shell(folder: Path) -> None:
    complete_env_file({"ANALYST_PASSWORD": "it's made up # here", "AWS_SECRET_ACCESS_KEY": "of-the-shell"})
    assert dotenv_values(folder / ".env")["ANALYST_PASSWORD"] == "it's made up # here"
    assert "of-the-shell" not in (folder / ".env").read_text()


def test_the_env_file_says_the_addresses_in_use_and_keeps_what_follows_from_them(folder: Path) -> None:
    complete_env_file({})
    used = SANDBOX | {
        "PGPORT": "6000",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:5000",
        "SQS_QUEUE_URL": "http://127.0.0.1:5000/000000000000/login-queue",
    }
    assert complete_env_file(used) == ["PGPORT", "AWS_ENDPOINT_URL"]
    values = dotenv_values(folder / ".env")
    assert {name: values[name] for name in ("PGPORT", "AWS_ENDPOINT_URL", "SQS_QUEUE_URL")} == {
        name: used[name] for name in ("PGPORT", "AWS_ENDPOINT_URL", "SQS_QUEUE_URL")
    }
    assert "SQS_QUEUE_URL=${AWS_ENDPOINT_URL}/" in (folder / ".env").read_text()
    assert complete_env_file(used) == []


def test_the_environment_wins_over_the_env_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("PGDATABASE=from_the_file\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:5000")
    complete_env_file(os.environ)
    load_env_file()
    assert os.environ["PGDATABASE"] == "from_the_file"
    assert os.environ["SQS_QUEUE_URL"] == "http://127.0.0.1:5000/000000000000/login-queue"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"PGHOST": "db.example.com"}, "PGHOST is db.example.com"),
        ({"PGPORT": "many"}, "PGPORT is many"),
        ({"PGPORT": "70000"}, "PGPORT is 70000"),
        ({"PGDATABASE": ""}, "PGDATABASE is not set"),
        ({"AWS_ENDPOINT_URL": "https://sqs.us-east-1.amazonaws.com"}, "AWS_ENDPOINT_URL is https://sqs"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:x"}, "AWS_ENDPOINT_URL is http://127.0.0.1:x"),
        ({"SQS_QUEUE_URL": "http://127.0.0.1:9/000000000000/login-queue"}, "SQS_QUEUE_URL is http://127.0.0.1:9"),
    ],
)
def test_the_sandbox_touches_no_server_but_its_own(change: dict[str, str], words: str) -> None:
    read_settings(SANDBOX)
    with pytest.raises(SandboxError) as caught:
        read_settings(SANDBOX | change)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == os.EX_CONFIG


def test_dbts_profile_is_private_and_gives_the_sandboxs_values_as_defaults(folder: Path) -> None:
    write_dbt_profile(SANDBOX | {"TRANSFORMER_PASSWORD": r"it's \ odd", "PGSSLMODE": "prefer"})
    written = folder / "dbt_project" / "profiles.yml"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    profile = yaml.safe_load(written.read_text())["user_logins"]
    assert (profile["target"], set(profile["outputs"])) == ("production", {"production", "dev"})
    output = profile["outputs"]["production"]
    assert output["port"] == "{{ env_var('PGPORT', '54320') | as_number }}"
    assert output["password"] == r"{{ env_var('TRANSFORMER_PASSWORD', 'it\'s \\ odd') }}"
    assert output["user"] == "transformer"
