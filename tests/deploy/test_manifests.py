"""What the files of the deployment say of AWS, PostgreSQL and GitHub that their linters cannot know."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.support import ROOT

AWS = ROOT / "deploy" / "aws"
# each short function of CloudFormation is read as what it is applied to
STACK, PIPELINE = (
    yaml.safe_load(re.sub(r"![A-Z]\w+ ", "", (AWS / name).read_text()))["Resources"] for name in ("user-logins.yaml", "pipeline.yaml")
)
OF_AWS = {  # the metrics that AWS publishes: the developer guides of SQS ("Available CloudWatch metrics") and of RDS
    "AWS/SQS": {"ApproximateAgeOfOldestMessage", "ApproximateNumberOfMessagesVisible", "NumberOfMessagesSent"},
    "AWS/RDS": {"FreeStorageSpace"},
}
WORKFLOWS = {path.stem: path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")}
CI, ROLLBACK = (yaml.safe_load(WORKFLOWS[name]) for name in ("ci", "rollback"))


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    return {name: each["Properties"] for name, each in STACK.items() if each["Type"] == f"AWS::{kind}"}


def allowed(role: str, resources: dict[str, Any] = STACK) -> Iterator[tuple[str, str]]:
    """Each action that a role's or a policy's own statements allow, with its resource."""
    for policy in resources[role]["Properties"].get("Policies", [resources[role]["Properties"]]):
        for statement in policy["PolicyDocument"]["Statement"]:
            actions, on = ([each] if isinstance(each, str) else each for each in (statement["Action"], statement["Resource"]))
            yield from ((action, each) for action in actions for each in on)


def test_the_administrator_on_aws_logs_in_by_iam_and_its_task_has_no_password_of_it() -> None:
    database, task = STACK["Database"]["Properties"], STACK["MigrateTask"]["Properties"]
    (container,) = task["ContainerDefinitions"]
    assert database["MasterUserAuthenticationType"] == "iam-db-auth"
    assert {"Name": "RDS_IAM_AUTH", "Value": "true"} in container["Environment"]
    assert "PASSWORD, Value:" not in (AWS / "user-logins.yaml").read_text()
    with_password = ("ANALYST", "REPORTER", "PII_REQUESTER", "PII_APPROVER")
    assert {each["Name"] for each in container["Secrets"]} == {f"{role}_PASSWORD" for role in with_password}
    assert [user.rsplit("/")[-1] for _, user in allowed(task["TaskRoleArn"].removesuffix(".Arn"))] == [database["MasterUsername"]]


def test_the_first_message_starts_a_loader_only_quiet_ends_the_last_and_no_deployment_resets_them() -> None:
    start, end = STACK["MessagesWait"]["Properties"], STACK["NothingWaits"]["Properties"]
    assert (start["TreatMissingData"], start["Threshold"], start["ComparisonOperator"]) == ("notBreaching", 0, "GreaterThanThreshold")
    steps = {name: each["StepScalingPolicyConfiguration"] for name, each in of_type("ApplicationAutoScaling::ScalingPolicy").items()}
    assert steps["Backlog"]["StepAdjustments"][0].items() >= {"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}.items()
    assert {each["AdjustmentType"] for each in steps.values()} == {"ExactCapacity"}
    assert (start["AlarmActions"], end["AlarmActions"]) == (["Backlog"], ["Idle"])
    assert "DesiredCount" not in STACK["Loader"]["Properties"]


RIGHTS = {
    "LoaderRole": {f"sqs:{act} Logins.Arn" for act in ("ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility")}
    | {"kms:Decrypt Key.Arn"},
    "Sending": {"sqs:SendMessage Logins.Arn", "kms:GenerateDataKey Key.Arn", "kms:Decrypt Key.Arn"},
    "AdminStart": {"kms:Decrypt Key.Arn"} | {f"secretsmanager:GetSecretValue {name}Password" for name in ("Analyst", "PiiApprover")},
    "ScheduleRole": {"kms:Decrypt Key.Arn", "ecs:RunTask DbtTask", "ecs:RunTask ExpireTask", "iam:PassRole TransformerRole.Arn"}
    | {"iam:PassRole PrivacyOfficerRole.Arn", "iam:PassRole Start.Arn"},
}


def test_a_role_may_do_what_it_is_there_for() -> None:
    assert [role for role, rights in RIGHTS.items() if not rights <= {" ".join(right) for right in allowed(role)}] == []


def test_the_pipeline_may_start_the_tasks_that_it_runs_with_their_roles_and_change_the_stack_with_the_stacks() -> None:
    may = {(action, on.rsplit(":", 1)[-1].removeprefix("role/")) for action, on in allowed("DeployRole", PIPELINE)}
    tasks = [STACK[f"{name.capitalize()}Task"]["Properties"] for name in re.findall(r"run-task (\w+)", WORKFLOWS["ci"])]
    roles = {task[key].removesuffix(".Arn") for task in tasks for key in ("TaskRoleArn", "ExecutionRoleArn")}
    assert {("iam:PassRole", STACK[role]["Properties"]["RoleName"]) for role in roles} | {("iam:PassRole", "StackRole.Arn")} <= may
    families = {on for action, on in allowed("DeployRole", PIPELINE) if action == "ecs:RunTask"}
    assert {task["Family"] for task in tasks} == {re.split("[/:]", on)[-2] for on in families}


def test_every_alarm_tells_somebody_of_a_metric_that_is_published() -> None:
    ours = {each["MetricName"] for name in of_type("Logs::MetricFilter").values() for each in name["MetricTransformations"]}
    for name, alarm in of_type("CloudWatch::Alarm").items():
        metrics = [alarm] if "MetricName" in alarm else [each["MetricStat"]["Metric"] for each in alarm["Metrics"] if "MetricStat" in each]
        assert all(each["MetricName"] in (OF_AWS | {"user-logins": ours})[each["Namespace"]] for each in metrics), name
        assert alarm["AlarmActions"] == ["Alarms"] or name in {"MessagesWait", "NothingWaits"}
        assert alarm["TreatMissingData"] == ("breaching" if name in {"DbtLate", "ExpiryLate", "FullDisk"} else "notBreaching")


def test_an_alarm_that_waits_for_a_line_knows_it() -> None:
    def seen(kept: str, line: str) -> bool:
        return all("".join(term) in line for term in re.findall(r'"([^"]+)"|(\w+)', STACK[kept]["Properties"]["FilterPattern"]))

    assert [seen("DbtIsUpToDate", f'{{"event": "{event}", "level": "info"}}') for event in ("up to date", "dbt run")] == [True, False]
    assert 'tell("up to date")' in (ROOT / "transform" / "follower.py").read_text()
    assert [seen("ExpiryEnds", line) for line in ("0 days expired", "expired: 2026-11-01")] == [True, False]
    assert '{days} days expired"' in (ROOT / "recovery" / "__main__.py").read_text()


def test_the_stack_takes_back_nothing_that_was_added_and_collides_with_nothing_that_an_earlier_one_left() -> None:
    assert all("QueueName" not in queue for queue in of_type("SQS::Queue").values())
    assert {each.get("DeletionPolicy") for each in (STACK | PIPELINE).values()} == {None, "RetainExceptOnCreate", "Snapshot"}
    assert PIPELINE["GitHub"]["Condition"] == "NoProvider"
    assert "SecurityGroupIngress" not in STACK["DatabaseAccess"]["Properties"]  # CloudFormation would put it back
    ways = [*of_type("EC2::SecurityGroupIngress").values(), STACK["Tasks"]["Properties"]["SecurityGroupEgress"][1]]
    assert [(way["FromPort"], way["ToPort"]) for way in ways] == 2 * [(5432, 5432)]
    assert (AWS / "user-logins.yaml").stat().st_size < 51_200  # more must lie in S3 (CloudFormation's quotas)


def test_the_workflows_hold_nobody_up_and_name_variables_that_the_readme_explains() -> None:
    explained = re.findall(r"[A-Z_]{3,}", (AWS / "README.md").read_text())
    assert set(re.findall(r"vars\.(\w+)", "".join(WORKFLOWS.values()))) <= set(explained)
    assert "docker image inspect" not in WORKFLOWS["ci"]  # BuildKit leaves no base image to inspect
    assert "github.run_id" in CI["concurrency"]["group"]
    assert CI["jobs"]["deploy"]["concurrency"] == ROLLBACK["jobs"]["rollback"]["concurrency"]
    assert min(map(int, re.findall(r"retention-days: (\d+)", WORKFLOWS["ci"]))) > 30  # days, within which a person may approve


def test_the_new_image_migrates_before_it_runs_and_the_old_one_comes_back_by_its_digest() -> None:
    late, tasks = {name for name, each in STACK.items() if each.get("Condition") == "Migrated"}, of_type("ECS::TaskDefinition")
    assert (of_type("ECS::Service") | of_type("Scheduler::Schedule") | tasks).keys() - late == {"MigrateTask"}
    assert [each["ContainerDefinitions"][0]["Image"] for name, each in tasks.items() if name not in late] == ["MigrationImage"]
    steps = {name: re.findall(r"run-task \w+|change .*", text) for name, text in WORKFLOWS.items()}
    assert steps["ci"] == ['change "MigrationImage=$IMAGE"', "run-task migrate", 'change "Image=$IMAGE"', "run-task dbt"]
    assert steps["rollback"] == ['change "Image=$IMAGE"', "run-task dbt"]
    assert ROLLBACK["jobs"]["rollback"]["env"]["IMAGE"].endswith("@${{ inputs.digest }}")
