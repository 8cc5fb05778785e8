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
from pydantic_settings import BaseSettings

import benchmarks.__main__  # noqa: F401  it registers all measures
from benchmarks.harness import MEASURES
from loader.report import Report
from loader.settings import LoaderSettings
from loader.sqs import Depth
from sandbox import postgres
from tests import support
from tests.support import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes" / "base"
ALERTS = ROOT / "deploy" / "kubernetes" / "components" / "alerts" / "alerts.yaml"
TEMPLATE = ROOT / "deploy" / "aws" / "user-logins.yaml"
make_secrets = runpy.run_path(str(ROOT / "deploy" / "compose" / "make_secrets.py"))


RULES: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["spec"]["groups"][0]["rules"]
# what kube-state-metrics (its docs/metrics/workload) and KEDA 2.15 (its page "Integrate with Prometheus") export
OF_THE_CLUSTER = {
    "kube_deployment_spec_replicas",
    "kube_deployment_status_replicas_available",
    "kube_job_failed",
    "kube_cronjob_status_last_successful_time",
    "kube_cronjob_created",
    "keda_scaler_detail_errors_total",
}


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


def test_every_selector_of_a_schedule_is_one_of_dbts() -> None:
    files = [*KUBERNETES.glob("*.yaml"), *TEMPLATE.parent.glob("*.json"), TEMPLATE, ROOT / "docker-compose.yml"]
    named = {name for path in files for name in re.findall(r"--selector\W+(\w+)", path.read_text())}
    assert named == {"each_run", "rest"}
    assert named <= {each["name"] for each in yaml.safe_load((ROOT / "dbt_project" / "selectors.yml").read_text())["selectors"]}


@pytest.mark.parametrize(
    "path",
    [KUBERNETES / "dbt-test.yaml", KUBERNETES.parent / "overlays" / "aws" / "kustomization.yaml", TEMPLATE, ROOT / "docker-compose.yml"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_daily_schedule_checks_that_something_has_landed(path: Path) -> None:
    assert re.search(r"dbt build --selector rest(?: &&|;|\n) *(?:token; )?dbt source freshness", path.read_text())


def test_kedas_operator_may_ask_for_the_queues_depth_by_a_policy_of_its_own_and_do_nothing_else() -> None:
    scaling = yaml.load(TEMPLATE.read_text(), Template)["Resources"]["Scaling"]["Properties"]  # noqa: S506  a SafeLoader
    assert scaling["PolicyDocument"]["Statement"] == [{"Effect": "Allow", "Action": "sqs:GetQueueAttributes", "Resource": "Logins.Arn"}]
    assert f":policy/{scaling['ManagedPolicyName']}\n" in (ROOT / "deploy" / "aws" / "README.md").read_text()
    (trigger,) = (each for each in yaml.safe_load_all((KUBERNETES / "scaling.yaml").read_text()) if each["kind"] == "TriggerAuthentication")
    # no identityOwner: not the loader's role, which its operator would have to be trusted with
    assert trigger["spec"]["podIdentity"] == {"provider": "aws"}


@pytest.mark.parametrize(("task", "user"), [("Loader", "loader"), ("Dbt", "transformer"), ("Expire", "privacy_officer")])
def test_on_aws_a_task_logs_in_by_its_own_role_and_has_no_password(task: str, user: str) -> None:
    resources = yaml.load(TEMPLATE.read_text(), Template)["Resources"]  # noqa: S506  a SafeLoader
    properties = resources[f"{task}Task"]["Properties"]
    (container,) = properties["ContainerDefinitions"]
    assert "Secrets" not in container
    assert {"Name": "RDS_IAM_AUTH", "Value": "true"} in container["Environment"] or f"rds-token {user}" in container["Command"][2]
    role = resources[properties["TaskRoleArn"].removesuffix(".Arn")]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    (may_connect,) = (each["Resource"] for each in role if each["Action"] == "rds-db:connect")
    assert may_connect.endswith(f"/{user}")


def test_every_alarm_has_its_section_in_the_runbook_and_every_section_its_alarm() -> None:
    alarms = set(re.findall(r"Runbook - ([a-z-]+)\.", TEMPLATE.read_text()))
    assert len(alarms) >= 5
    alerts = {re.sub("(?<!^)([A-Z])", r"-\1", rule["alert"]).lower(): rule["annotations"]["runbook"] for rule in RULES}
    assert alerts == {name: f"docs/runbook.md#{name}" for name in alerts}
    assert alarms | alerts.keys() == set(re.findall(r"^## ([a-z-]+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE))


def test_every_metric_of_an_alert_is_exported() -> None:
    report = Report()
    report.depth(Depth(visible=0, in_flight=0, delayed=0))
    exported = {sample.name for family in report.registry.collect() for sample in family.samples}
    named = {name for rule in RULES for name in re.findall(r"[a-z]+_[a-z_]{3,}", re.sub(r"\{.*?\}|histogram_quantile", "", rule["expr"]))}
    assert {name for name in named if name.startswith("loader_")}
    assert named <= exported | OF_THE_CLUSTER


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_is_tried_out_both_ways(rule: dict[str, Any]) -> None:
    quiet, loud = yaml.safe_load((ROOT / "deploy" / "lint" / "alerts.test.yaml").read_text())["tests"]
    expected = [{case["alertname"]: len(case["exp_alerts"]) for case in test["alert_rule_test"]}[rule["alert"]] for test in (quiet, loud)]
    assert expected == [0, 1]


def test_the_alarm_of_the_rejected_share_waits_for_a_test_that_dbt_has() -> None:
    (pattern,) = re.findall(r"FilterPattern: '(.+)'", TEMPLATE.read_text())
    (name,) = set(re.findall(r"assert_\w+", pattern))
    assert (ROOT / "dbt_project" / "tests" / f"{name}.sql").exists()
    assert re.search(pattern.strip("%"), f"12:00:00  3 of 20 FAIL 25 {name} .......... [FAIL 25 in 0.05s]")
    assert re.search(pattern.strip("%"), f"12:00:00  3 of 20 WARN 7 {name} ........... [WARN 7 in 0.05s]")
    assert not re.search(pattern.strip("%"), f"12:00:00  3 of 20 PASS {name} .......... [PASS in 0.05s]")


def test_every_metric_that_the_docs_name_is_one_of_the_loaders() -> None:
    named = {name for path in (ROOT / "docs").glob("*.md") for name in re.findall(r"`(loader_[a-z_]+)", path.read_text())}
    assert named
    report = Report()
    report.depth(Depth(visible=0, in_flight=0, delayed=0))
    defined = {family.name for family in report.registry.collect()}
    assert not {name for name in named if name.removesuffix("_total") not in defined and name != "loader_"}


EXAMPLE = dict(re.findall(r"^(?:# )?([A-Z][A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
# what is no setting: of a command line, of each request for a metric
NO_SETTINGS = {"FILE", "PATH_INFO"}


def variables_read() -> Iterator[str]:
    """Every environment variable that the code asks for, or that a file of the deployment sets for it to ask for."""
    for settings in BaseSettings.__subclasses__():
        yield from (name.upper() for name in settings.model_fields)
    for package in ("loader", "recovery", "sandbox"):
        for path in (ROOT / package).glob("*.py"):
            yield from re.findall(r'''environ(?:\.get\(|\[|, )"([A-Z_]+)"''', path.read_text())
    yield from re.findall(r"env_var\('(\w+)'", (ROOT / "dbt_project" / "profiles" / "profiles.yml").read_text())
    compose = (ROOT / "docker-compose.yml").read_text()
    yield from re.findall(r"\$\{([A-Z_]+)", re.sub(r"\$\$.|^ *#.*", "", compose, flags=re.MULTILINE))
    for service in yaml.safe_load(compose)["services"].values():
        yield from (name for name, value in service.get("environment", {}).items() if value is None)
    for path in (KUBERNETES / "settings.env", *(KUBERNETES.parent / "overlays").glob("*/kustomization.yaml")):
        yield from re.findall(r"^(?: *- )?([A-Z_]+)=", path.read_text(), re.MULTILINE)
    yield from re.findall(r"- \{Name: ([A-Z_]+), Value", TEMPLATE.read_text())


def test_every_variable_that_is_read_stands_in_the_example() -> None:
    read = set(variables_read())
    assert {"LOADER_RECEIVERS", "ADMIN_PASSWORD", "TRANSFORMER_PASSWORD", "PRIVACY_OFFICER_PASSWORD", "SQS_PORT", "RDS_IAM_AUTH"} <= read
    assert read - EXAMPLE.keys() == NO_SETTINGS


def test_every_default_in_the_example_is_the_loaders() -> None:
    for name, field in LoaderSettings.model_fields.items():
        if name.startswith("loader_") and field.default is not None:
            assert type(field.default)(EXAMPLE[name.upper()]) == field.default, name


def test_every_measure_that_the_docs_name_is_one() -> None:
    named = {name for path in (ROOT / "docs").glob("*.md") for name in re.findall(r"`python -m benchmarks ([a-z_ ]+)`", path.read_text())}
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
@pytest.mark.parametrize(
    ("environment", "seen"), [({}, "of the file"), ({"A_PASSWORD": ""}, "of the file"), ({"A_PASSWORD": "set"}, "set")]
)
def test_a_secret_file_is_shown_as_a_variable_where_there_is_none(
    tmp_path: Path, folder: str, environment: dict[str, str], seen: str
) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "A_PASSWORD").write_text("of the file\n")
    script = (ROOT / "deploy" / "with-secrets").read_text()
    assert "/secrets/" in script
    here = {"PATH": os.environ["PATH"]} | environment
    command = ["sh", "-c", script.replace("/secrets/", f"{tmp_path}/"), "with-secrets", "printenv", "A_PASSWORD"]
    assert subprocess.run(command, env=here, capture_output=True, text=True, check=True).stdout == f"{seen}\n"


IMAGE = "registry.example/user-logins@sha256:" + 64 * "0"
# stand-ins, which tell what they are told
KUBECTL = """#!/bin/sh
{ echo "kubectl $*"; [ "$3" != --filename ] && [ "$2" != --filename ] || cat; } >> "$TOLD"
case $* in
*" wait "*) [ "$(grep -c " wait " "$TOLD")" -eq "$COMPLETE_AT_WAIT" ] ;;
*" get job "*) echo "$FAILED" ;;
esac
"""
KUSTOMIZE = '#!/bin/sh\necho "kustomize $1" >> "$TOLD"; cat "$2/kustomization.yaml"\n'


def apply(directory: Path, *arguments: str, complete_at_wait: int = 1, failed: str = "") -> tuple[subprocess.CompletedProcess[str], str]:
    """deploy/kubernetes/apply, and what it told kubectl and kustomize."""
    for name, script in (("kubectl", KUBECTL), ("kustomize", KUSTOMIZE)):
        (directory / name).write_text(script)
        (directory / name).chmod(0o755)
    told = directory / "told"
    told.touch()
    environment = {"PATH": f"{directory}{os.pathsep}{os.environ['PATH']}", "TOLD": str(told)}
    environment |= {"COMPLETE_AT_WAIT": str(complete_at_wait), "FAILED": failed}
    return support.run([str(KUBERNETES.parent / "apply"), *arguments], environment), told.read_text()


def test_a_cluster_gets_the_image_by_its_digest_after_the_old_migration_is_gone(tmp_path: Path) -> None:
    ran, told = apply(tmp_path, "aws", IMAGE)
    assert ran.returncode == 0, ran.stderr
    migrating, _, after = told.partition(" wait --for=condition=complete")
    kustomize, delete, put, *resources, _ = migrating.splitlines()
    assert (kustomize, put) == ("kustomize build", "kubectl apply --filename - --selector !after-migration")
    assert "delete job migrate --ignore-not-found" in delete
    _, put, *_, views, rollout = after.splitlines()
    assert put == "kubectl apply --filename -"
    assert "create job --from=cronjob/dbt-test" in views
    assert "rollout status" in rollout
    assert yaml.safe_load("\n".join(resources))["images"] == [
        {"name": "user-logins", "newName": "registry.example/user-logins", "digest": IMAGE.partition("@")[2]}
    ]
    assert not list(KUBERNETES.parent.glob(".render-*"))


def test_a_migration_that_is_not_done_yet_is_waited_for(tmp_path: Path) -> None:
    ran, told = apply(tmp_path, "aws", IMAGE, complete_at_wait=3)
    assert ran.returncode == 0, ran.stderr
    assert told.count(" wait ") == 3
    assert "rollout status" in told.splitlines()[-1]


def test_a_migration_that_failed_is_not_waited_for(tmp_path: Path) -> None:
    ran, told = apply(tmp_path, "aws", IMAGE, complete_at_wait=3, failed="True")
    assert ran.returncode == 1
    assert ran.stderr == "the migration failed; its log says why: kubectl --namespace user-logins logs job/migrate\n"
    assert told.count(" wait ") == 1
    assert "kubectl apply --filename -\n" not in told
    assert "rollout status" not in told


def test_a_cluster_is_not_touched_for_an_image_that_is_named_by_a_tag(tmp_path: Path) -> None:
    ran, told = apply(tmp_path, "aws", "registry.example/user-logins:latest")
    assert (ran.returncode, told) == (os.EX_USAGE, "")
    assert "name it by its digest" in ran.stderr


AWS = """#!/bin/sh
echo "aws $*" >> "$TOLD"
case $* in
*" run-task "*) echo arn:of-the-task ;;
*" wait "*) [ "$(grep -c " wait " "$TOLD")" -eq 2 ] ;;
*" describe-tasks "*) echo "$CODE" ;;
esac
"""


@pytest.mark.parametrize(("code", "exit_code"), [("0", 0), ("70", 1), ("None", 1)])
def test_a_task_on_aws_is_waited_for_and_its_failure_is_passed_on(tmp_path: Path, code: str, exit_code: int) -> None:
    (tmp_path / "aws").write_text(AWS)
    (tmp_path / "aws").chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "TOLD": str(tmp_path / "told"), "CODE": code}
    ran = support.run([str(TEMPLATE.parent / "run-task"), "dbt", "--overrides", "file://deploy/aws/views.json"], environment)
    told = (tmp_path / "told").read_text()
    assert (ran.returncode, ran.stdout) == (exit_code, f"dbt ended with {code}\n")
    assert re.search("run-task .*--task-definition user-logins-dbt .*--overrides file://deploy/aws/views.json", told)
    assert told.count(" wait tasks-stopped ") == 2
