"""What the deployment files name exists: commands, alarms, metrics, secrets."""

import os
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox import postgres
from tests import support
from tests.support import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes" / "base"
TEMPLATE = ROOT / "deploy" / "aws" / "user-logins.yaml"
make_secrets = runpy.run_path(str(ROOT / "deploy" / "compose" / "make_secrets.py"))


class Template(yaml.SafeLoader):
    """CloudFormation's short functions, read as what they are applied to."""


def _plain(loader: Template, _tag: str, node: yaml.Node) -> Any:
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else str(node.value)


Template.add_multi_constructor("!", _plain)


def commands() -> Iterator[tuple[str, ...]]:
    """Every command that a container of ours is started with."""
    for path in KUBERNETES.glob("*.yaml"):
        for resource in yaml.safe_load_all(path.read_text()):
            yield from _containers(resource, "args")
    yield from _containers(yaml.load(TEMPLATE.read_text(), Template), "Command")  # noqa: S506  a SafeLoader
    for service in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values():
        yield tuple(service.get("command", ()))


def _containers(value: Any, key: str) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        if isinstance(value.get(key), list):
            yield tuple(value[key])
        for inner in value.values():
            yield from _containers(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _containers(inner, key)


PACKAGES = {"loader", "sandbox", "recovery"}
OURS = sorted({command[2:4] for command in commands() if command[:2] == ("python", "-m") and command[2] in PACKAGES})


SILENT = {name: value for name, value in postgres.SETTINGS.items() if name.startswith(("log_min", "log_error", "log_parameter"))}


@pytest.mark.parametrize(("name", "value"), SILENT.items())
def test_no_server_logs_the_values_that_an_error_quotes(name: str, value: str) -> None:
    assert f"-c{name}={value}" in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["postgres"]["command"]
    aws = yaml.load(TEMPLATE.read_text(), Template)["Resources"]["DatabaseSettings"]["Properties"]["Parameters"]  # noqa: S506  a SafeLoader
    assert aws[name] == value
    assert f"{name}={value}" in (ROOT / "deploy" / "azure.md").read_text().replace(";", " ").split()


def test_the_files_start_the_loader_the_migration_and_the_expiry() -> None:
    assert {("loader", "follow"), ("loader", "migrate"), ("recovery", "expire")} <= set(OURS)


@pytest.mark.parametrize("command", OURS, ids=" ".join)
def test_every_command_that_a_container_is_started_with_exists(command: tuple[str, ...]) -> None:
    ran = support.run(["python", "-m", *command, "--help"], os.environ)
    assert ran.returncode == 0, ran.stderr


def test_every_alarm_has_its_paragraph_in_the_runbook() -> None:
    alarms = set(re.findall(r"Runbook - ([a-z-]+)\.", TEMPLATE.read_text()))
    assert len(alarms) >= 5
    assert alarms <= set(re.findall(r"^## ([a-z-]+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE))


def test_the_alarm_of_the_rejected_share_waits_for_a_test_that_dbt_has() -> None:
    (pattern,) = re.findall(r"FilterPattern: '(.+)'", TEMPLATE.read_text())
    (name,) = set(re.findall(r"assert_\w+", pattern))
    assert (ROOT / "dbt_project" / "tests" / f"{name}.sql").exists()
    assert re.search(pattern.strip("%"), f"12:00:00  3 of 20 FAIL 25 {name} .......... [FAIL 25 in 0.05s]")
    assert not re.search(pattern.strip("%"), f"12:00:00  3 of 20 PASS {name} .......... [PASS in 0.05s]")


def test_every_metric_that_the_docs_name_is_one_of_the_loaders() -> None:
    named = {name for path in (ROOT / "docs").glob("*.md") for name in re.findall(r"`(loader_[a-z_]+)", path.read_text())}
    assert named
    defined = (ROOT / "loader" / "metrics.py").read_text()
    assert not {name for name in named if f'"{name.removesuffix("_total")}"' not in defined and name != "loader_"}


def test_passwords_are_made_once_and_each_reader_gets_its_own_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for reader, names in make_secrets["READERS"].items():
        (tmp_path / reader).mkdir()
        for name in names:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANALYST_PASSWORD", "chosen")
    make_secrets["make"](tmp_path)
    first = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*_PASSWORD")}
    make_secrets["make"](tmp_path)
    assert {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*_PASSWORD")} == first
    assert [path.name for path in (tmp_path / "loader").iterdir()] == ["LOADER_PASSWORD"]
    assert first[Path("analyst/ANALYST_PASSWORD")] == first[Path("admin/ANALYST_PASSWORD")] == "chosen"
    assert len(set(first.values())) == 4
    assert all(len(value) > 20 for path, value in first.items() if path.name != "ANALYST_PASSWORD")


@pytest.mark.parametrize(
    ("environment", "seen"), [({}, "of the file"), ({"A_PASSWORD": ""}, "of the file"), ({"A_PASSWORD": "set"}, "set")]
)
def test_a_secret_file_is_shown_as_a_variable_where_there_is_none(tmp_path: Path, environment: dict[str, str], seen: str) -> None:
    (tmp_path / "A_PASSWORD").write_text("of the file\n")
    script = (ROOT / "deploy" / "with-secrets").read_text()
    assert "/secrets/" in script
    here = {"PATH": os.environ["PATH"]} | environment
    command = ["sh", "-c", script.replace("/secrets/", f"{tmp_path}/"), "with-secrets", "printenv", "A_PASSWORD"]
    assert subprocess.run(command, env=here, capture_output=True, text=True, check=True).stdout == f"{seen}\n"
