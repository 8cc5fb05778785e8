"""What the deployment files name exists: commands, alarms, metrics, secrets."""

import json
import os
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import benchmarks.__main__  # noqa: F401  it registers all measures
from benchmarks.harness import MEASURES
from loader.report import Report
from loader.settings import LoaderSettings, MigrateSettings, TransformSettings
from sandbox import postgres
from tests import support
from tests.support import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes" / "base"
ALERTS = ROOT / "deploy" / "kubernetes" / "components" / "alerts" / "alerts.yaml"
TEMPLATE = ROOT / "deploy" / "aws" / "user-logins.yaml"
COMPOSE = ROOT / "docker-compose.yml"
make_secrets = runpy.run_path(str(ROOT / "deploy" / "compose" / "make_secrets.py"))
DASHBOARD = json.loads(ALERTS.with_name("dashboard.json").read_text())["panels"]
RULES: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["spec"]["groups"][0]["rules"]


class Template(yaml.SafeLoader):
    """CloudFormation's short functions, read as what they are applied to."""


def _plain(loader: Template, _tag: str, node: yaml.Node) -> Any:
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else str(node.value)


Template.add_multi_constructor("!", _plain)


def resources() -> dict[str, Any]:
    """What the stack on AWS is made of."""
    found: dict[str, Any] = yaml.load(TEMPLATE.read_text(), Template)["Resources"]  # noqa: S506  a SafeLoader
    return found


def commands(value: Any = None) -> Iterator[tuple[str, ...]]:
    """Every command that a container of ours is started with, or those within *value*."""
    if value is None:
        files = [yaml.safe_load_all(path.read_text()) for path in (*KUBERNETES.glob("*.yaml"), COMPOSE)]
        value = [resources(), *(document for documents in files for document in documents)]
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key in {"args", "Command", "command"} and isinstance(inner, list):
            yield tuple(inner)
        yield from commands(inner or ())


OURS = sorted(
    {
        command[2:4]
        for command in commands()
        if command[:2] == ("python", "-m") and command[2] in {"loader", "transform", "sandbox", "recovery"}
    }
)
SCHEDULES = [KUBERNETES / "dbt-test.yaml", KUBERNETES.parent / "overlays" / "aws" / "kustomization.yaml", TEMPLATE, COMPOSE]


def test_no_server_logs_the_values_that_an_error_quotes() -> None:
    quiet = {name: value for name, value in postgres.SETTINGS.items() if name.startswith(("log_min", "log_error", "log_parameter"))}
    assert quiet
    aws = resources()["DatabaseSettings"]["Properties"]["Parameters"]
    assert {name: aws.get(name) for name in quiet} == quiet
    settings = {f"{name}={value}" for name, value in quiet.items()}
    assert {f"-c{setting}" for setting in settings} <= {*yaml.safe_load(COMPOSE.read_text())["services"]["postgres"]["command"]}
    assert settings <= {*(ROOT / "deploy" / "azure.md").read_text().replace(";", " ").split()}


@pytest.mark.parametrize("command", OURS, ids=" ".join)
def test_every_command_that_a_container_is_started_with_exists(command: tuple[str, ...]) -> None:
    assert {("loader", "follow"), ("loader", "migrate"), ("transform", "follow"), ("recovery", "expire")} <= {*OURS}
    ran = support.run(["python", "-m", *command, "--help"], os.environ)
    assert ran.returncode == 0, ran.stderr


def test_the_schedules_run_dbts_selectors_and_check_daily_that_something_has_landed() -> None:
    files = [*KUBERNETES.glob("*.yaml"), *TEMPLATE.parent.glob("*.json"), TEMPLATE, COMPOSE, ROOT / "transform" / "follower.py"]
    named = {name for path in files for name in re.findall(r"--selector\W+(\w+)", path.read_text())}
    assert named == {each["name"] for each in yaml.safe_load((ROOT / "dbt_project" / "selectors.yml").read_text())["selectors"]}
    daily = re.compile(r"dbt build --selector rest(?: &&|;|\n) *(?:token; )?dbt source freshness")
    assert [path for path in SCHEDULES if not daily.search(path.read_text())] == []


def test_kedas_operator_may_ask_for_the_queues_depth_by_a_policy_of_its_own_and_do_nothing_else() -> None:
    scaling = yaml.load(TEMPLATE.read_text(), Template)["Resources"]["Scaling"]["Properties"]  # noqa: S506  a SafeLoader
    assert scaling["PolicyDocument"]["Statement"] == [{"Effect": "Allow", "Action": "sqs:GetQueueAttributes", "Resource": "Logins.Arn"}]
    assert f":policy/{scaling['ManagedPolicyName']}\n" in (ROOT / "deploy" / "aws" / "README.md").read_text()
    (trigger,) = (each for each in yaml.safe_load_all((KUBERNETES / "scaling.yaml").read_text()) if each["kind"] == "TriggerAuthentication")
    # no identityOwner: not the loader's role, which its operator would have to be trusted with
    assert trigger["spec"]["podIdentity"] == {"provider": "aws"}


@pytest.mark.parametrize(("task", "user"), [("Loader", "loader"), ("Dbt", "transformer"), ("Expire", "privacy_officer")])
def test_on_aws_a_task_logs_in_by_its_own_role_and_has_no_password(task: str, user: str) -> None:
    properties = resources()[f"{task}Task"]["Properties"]
    (container,) = properties["ContainerDefinitions"]
    assert "Secrets" not in container
    assert {"Name": "RDS_IAM_AUTH", "Value": "true"} in container["Environment"] or f"rds-token {user}" in container["Command"][2]
    role = resources()[properties["TaskRoleArn"].removesuffix(".Arn")]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    (may_connect,) = (each["Resource"] for each in role if each["Action"] == "rds-db:connect")
    assert may_connect.endswith(f"/{user}")


def test_every_alarm_has_its_section_in_the_runbook_and_every_section_its_alarm() -> None:
    alarms = set(re.findall(r"Runbook - ([a-z-]+)\.", TEMPLATE.read_text()))
    assert len(alarms) >= 5
    alerts = {re.sub("(?<!^)([A-Z])", r"-\1", rule["alert"]).lower(): rule["annotations"]["runbook"] for rule in RULES}
    assert alerts == {name: f"docs/runbook.md#{name}" for name in alerts}
    assert alarms | alerts.keys() == set(re.findall(r"^## ([a-z-]+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE))


def metrics(query: str) -> set[str]:
    """The metrics that *query* names."""
    return set(re.findall(r"[a-z]+_[a-z_]{3,}", re.sub(r"\{.*?\}|\$\w+|histogram_quantile", "", query)))


def test_every_metric_that_an_alert_the_dashboard_or_the_docs_name_is_exported() -> None:
    families = list(Report().collect())
    exported = {sample.name for family in families for sample in family.samples}
    in_alerts = {name for rule in RULES for name in metrics(rule["expr"])}
    on_board = {name for panel in DASHBOARD for target in panel.get("targets", []) for name in metrics(target["expr"])}
    in_docs = {name for path in (ROOT / "docs").glob("*.md") for name in re.findall(r"`(loader_[a-z_]+)", path.read_text())}
    # those of others are in promtool's tests, or in KEDA's documentation
    of_the_loader = {name for name in in_alerts | on_board if not name.startswith(("kube_", "keda_"))}
    assert len(of_the_loader & in_alerts) > 1 < len(in_docs)
    assert of_the_loader <= exported
    assert in_docs - {"loader_"} <= exported | {family.name for family in families}
    derived = re.compile("_(created|sum|count)$")  # by the client library, of one that is on the dashboard
    assert {name for name in exported if not derived.search(name)} == on_board & exported


def test_every_panel_and_alert_of_the_dashboard_leads_to_a_section_of_the_runbook() -> None:
    sections = re.findall(r"^## ([a-z-]+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    named = [panel["description"] for panel in DASHBOARD if "description" in panel]
    assert len(named) > 10
    assert set(named) <= {f"docs/runbook.md#{section}" for section in sections}
    (shown,) = (
        re.search('alertname=~"(.*?)"', target["expr"])
        for panel in DASHBOARD
        for target in panel.get("targets", [])[:1]
        if "ALERTS" in target["expr"]
    )
    assert shown
    assert shown[1].split("|") == [rule["alert"] for rule in RULES]


def test_every_alert_is_tried_out_both_ways() -> None:
    """By promtool, in `make lint-deploy`."""
    tests = yaml.safe_load((ROOT / "deploy" / "lint" / "alerts.test.yaml").read_text())["tests"]
    quiet, loud = ({case["alertname"]: len(case["exp_alerts"]) for case in test["alert_rule_test"]} for test in tests)
    names = [rule["alert"] for rule in RULES]
    assert (quiet, loud) == (dict.fromkeys(names, 0), dict.fromkeys(names, 1))


def test_the_alarm_of_the_rejected_share_waits_for_a_test_that_dbt_has() -> None:
    (pattern,) = re.findall(r"FilterPattern: '(.+)'", TEMPLATE.read_text())
    (name,) = set(re.findall(r"assert_\w+", pattern))
    assert (ROOT / "dbt_project" / "tests" / f"{name}.sql").exists()
    # as tests/integration/test_transform.py sees it
    assert re.search(pattern.strip("%"), f"test.user_logins.{name} fail; see")
    assert re.search(pattern.strip("%"), f"test.user_logins.{name} warn; see")
    assert not re.search(pattern.strip("%"), "test.user_logins.assert_plain_columns_are_as_sent fail; see")


def test_every_variable_that_is_read_stands_in_the_example() -> None:
    """What the code asks for, and what a file of the deployment sets or leaves to the environment."""
    read = {name.upper() for settings in (LoaderSettings, MigrateSettings, TransformSettings) for name in settings.model_fields}
    for pattern, files in {
        r"env_var\('(\w+)'": [ROOT / "dbt_project" / "profiles" / "profiles.yml"],
        r"(?<!\$)\$\{([A-Z_]+)": [COMPOSE],
        r"^(?: *- )?([A-Z_]+)=": [KUBERNETES / "settings.env", *(KUBERNETES.parent / "overlays").glob("*/kustomization.yaml")],
        r"- \{Name: ([A-Z_]+), Value": [TEMPLATE],
        r'''environ(?:\.get\(|\[|, )"([A-Z_]+)"''': [
            path for name in ("loader", "transform", "recovery", "sandbox") for path in (ROOT / name).glob("*.py")
        ],
    }.items():
        read |= {name for path in files for name in re.findall(pattern, path.read_text(), re.MULTILINE)}
    example = re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert {"LOADER_RECEIVERS", "ADMIN_PASSWORD", "TRANSFORMER_PASSWORD", "SQS_PORT", "RDS_IAM_AUTH"} <= read
    # no settings: FILE of a command line, PATH_INFO of a request for a metric
    assert read - set(example) == {"FILE", "PATH_INFO"}


def test_every_measure_that_the_docs_name_is_one() -> None:
    named = [names for path in (ROOT / "docs").glob("*.md") for names in re.findall(r"`python -m benchmarks ([a-z_ ]+)`", path.read_text())]
    assert "sizing" in named
    assert {name for names in named for name in names.split()} <= MEASURES.keys()


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
    own = {reader: [path.name for path in (tmp_path / reader).iterdir()] for reader in make_secrets["READERS"] if reader != "admin"}
    assert own == {reader: [f"{reader.upper().replace('-', '_')}_PASSWORD"] for reader in own}
    assert first[Path("analyst/ANALYST_PASSWORD")] == first[Path("admin/ANALYST_PASSWORD")] == "chosen"
    assert len(set(first.values())) == 5
    assert all(len(value) > 20 for path, value in first.items() if path.name != "ANALYST_PASSWORD")


@pytest.mark.parametrize("folder", [".", "reader"])
def test_a_secret_file_is_shown_as_a_variable_where_there_is_none(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "A_PASSWORD").write_text("of the file\n")
    script = (ROOT / "deploy" / "with-secrets").read_text()
    assert "/secrets/" in script
    command = ["sh", "-c", script.replace("/secrets/", f"{tmp_path}/"), "with-secrets", "printenv", "A_PASSWORD"]
    for environment, seen in (({}, "of the file"), ({"A_PASSWORD": ""}, "of the file"), ({"A_PASSWORD": "set"}, "set")):
        assert support.run(command, {"PATH": os.environ["PATH"]} | environment).stdout == f"{seen}\n"


IMAGE = "registry.example/user-logins@sha256:" + 64 * "0"
# A stand-in for each, which tells what it is told. A wait ends well the second time.
PROGRAMS = ("kubectl", "kustomize", "aws")
STAND_IN = """#!/bin/sh
{ echo "${0##*/} $*"; case $* in *"apply --filename -"*) cat ;; esac; } >> "$TOLD"
case "${0##*/} $*" in
"kustomize build "*) cat "$2/kustomization.yaml" ;;
*" run-task "*) echo arn:of-the-task ;;
*" wait "*) [ "$(grep -c " wait " "$TOLD")" -eq 2 ] ;;
*" get job "* | *" describe-tasks "*) echo "$OUTCOME" ;;
esac
"""


def told(directory: Path, script: Path, *arguments: str, outcome: str = "") -> tuple[subprocess.CompletedProcess[str], str]:
    """Run *script* where what it waits for comes to *outcome*, and return what it told the PROGRAMS too."""
    for name in PROGRAMS:
        (directory / name).write_text(STAND_IN)
        (directory / name).chmod(0o755)
    log = directory / "told"
    log.touch()
    environment = {"PATH": f"{directory}{os.pathsep}{os.environ['PATH']}", "TOLD": str(log), "OUTCOME": outcome}
    return support.run([str(script), *arguments], environment), log.read_text()


APPLY = KUBERNETES.parent / "apply"


def test_a_cluster_gets_the_image_by_its_digest_after_the_old_migration_is_gone_and_its_own_is_waited_for(tmp_path: Path) -> None:
    ran, said = told(tmp_path, APPLY, "aws", IMAGE)
    assert ran.returncode == 0, ran.stderr
    migrating, _, after = said.partition("kubectl --namespace user-logins wait --for=condition=complete")
    kustomize, delete, put, *applied = migrating.splitlines()
    assert kustomize.startswith("kustomize build ")
    assert "delete job migrate --ignore-not-found" in delete
    assert put == "kubectl apply --filename - --selector !after-migration"
    assert "get job migrate" in after.splitlines()[1]
    assert [line for line in after.splitlines() if "apply" in line] == ["kubectl apply --filename -"]
    *_, views, rollout = after.splitlines()
    assert "create job --from=cronjob/dbt-test" in views
    assert "rollout status" in rollout
    assert yaml.safe_load("\n".join(applied))["images"] == [
        {"name": "user-logins", "newName": "registry.example/user-logins", "digest": IMAGE.partition("@")[2]}
    ]
    assert not list(KUBERNETES.parent.glob(".render-*"))


def test_a_migration_that_failed_is_not_waited_for(tmp_path: Path) -> None:
    ran, said = told(tmp_path, APPLY, "aws", IMAGE, outcome="True")
    assert ran.returncode == 1
    assert ran.stderr == "the migration failed; its log says why: kubectl --namespace user-logins logs job/migrate\n"
    assert "get job migrate" in said.splitlines()[-1]
    assert "kubectl apply --filename -\n" not in said


def test_a_cluster_is_not_touched_for_an_image_that_is_named_by_a_tag(tmp_path: Path) -> None:
    ran, said = told(tmp_path, APPLY, "aws", "registry.example/user-logins:latest")
    assert (ran.returncode, said) == (os.EX_USAGE, "")
    assert "name it by its digest" in ran.stderr


@pytest.mark.parametrize(("code", "exit_code"), [("0", 0), ("70", 1), ("None", 1)])
def test_a_task_on_aws_is_waited_for_and_its_failure_is_passed_on(tmp_path: Path, code: str, exit_code: int) -> None:
    ran, said = told(tmp_path, TEMPLATE.parent / "run-task", "dbt", "--overrides", "file://deploy/aws/views.json", outcome=code)
    assert (ran.returncode, ran.stdout) == (exit_code, f"dbt ended with {code}\n")
    assert re.search("run-task .*--task-definition user-logins-dbt .*--overrides file://deploy/aws/views.json", said)
    assert said.count(" wait tasks-stopped ") == 2
