"""What the files of the deployment say of AWS, PostgreSQL and GitHub that their linters cannot know."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from loader.migrate import let_in_by_iam
from sandbox import postgres
from sandbox.processes import wait_until
from tests.support import ROOT


class Template(yaml.SafeLoader):
    """A template of CloudFormation, with each short function as what it is applied to."""


Template.add_multi_constructor(
    "!",
    lambda loader, _, node: loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else str(node.value),
)
AWS = ROOT / "deploy" / "aws"
STACK, PIPELINE = (yaml.load((AWS / name).read_text(), Template)["Resources"] for name in ("user-logins.yaml", "pipeline.yaml"))  # noqa: S506  a SafeLoader
OF_AWS = {  # the metrics that AWS publishes: the developer guides of SQS ("Available CloudWatch metrics") and of RDS
    "AWS/SQS": {"ApproximateAgeOfOldestMessage", "ApproximateNumberOfMessagesVisible", "NumberOfMessagesSent"},
    "AWS/RDS": {"FreeStorageSpace"},
}
WORKFLOWS = {path.stem: path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")}
CI, ROLLBACK = (yaml.safe_load(WORKFLOWS[name]) for name in ("ci", "rollback"))
# the first version of each action whose action.yml says `using: node24`
ON_NODE_24 = {
    "actions/checkout": 5,
    "actions/setup-python": 6,
    "actions/upload-artifact": 6,
    "actions/download-artifact": 7,
    "aws-actions/configure-aws-credentials": 6,
    "anchore/scan-action": 7.4,
}


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    return {name: each["Properties"] for name, each in STACK.items() if each["Type"] == f"AWS::{kind}"}


def allowed(role: str, resources: dict[str, Any] = STACK) -> Iterator[tuple[str, str]]:
    """Each action that a role's or a policy's own statements allow, with its resource."""
    properties = resources[role]["Properties"]
    documents = [each["PolicyDocument"] for each in properties.get("Policies", [properties])]
    for statement in (each for document in documents for each in document["Statement"]):
        actions, on = ([each] if isinstance(each, str) else each for each in (statement["Action"], statement["Resource"]))
        yield from ((action, each) for action in actions for each in on)


def test_whoever_created_a_user_is_in_rds_iam_with_it_even_without_inherit_and_set(tmp_path: Path) -> None:
    with postgres.throwaway(tmp_path, "not-a-secret") as server, server.connect() as superuser:
        for name in ("administrator", "other"):
            superuser.execute(f"create role {name} login createrole password 'made-up'".encode())

        def let_in(name: str) -> bool:
            try:
                psycopg.connect(host="127.0.0.1", port=server.port, dbname="postgres", user=name, password="made-up").close()
            except psycopg.OperationalError as error:
                assert "pg_hba.conf rejects" in str(error)
                return False
            return True

        with psycopg.connect(host="127.0.0.1", port=server.port, dbname="postgres", user="administrator", password="made-up") as own:
            own.execute("create role loader login; create role analyst login")
        options = superuser.execute("select distinct admin_option, inherit_option, set_option from pg_auth_members where grantor = 10")
        assert (True, False, False) in options.fetchall()
        let_in_by_iam(superuser, ["loader"])  # elsewhere than on RDS nothing happens
        superuser.execute("create role rds_iam")
        # as on RDS, where the line lets PAM ask for an IAM credential
        rules = server.data / "pg_hba.conf"
        rules.write_text(f"host all +rds_iam 127.0.0.1/32 reject\n{rules.read_text()}")
        superuser.execute("select pg_reload_conf()")
        assert let_in("administrator")
        let_in_by_iam(superuser, ["loader"])
        members = superuser.execute("select member::regrole::text from pg_auth_members where roleid = 'rds_iam'::regrole").fetchall()
        assert members == [("loader",)]
        assert wait_until(lambda: not let_in("administrator"), 10)
        assert let_in("other")


def test_the_administrator_on_aws_logs_in_by_iam_and_its_task_has_no_password_of_it() -> None:
    database, task = STACK["Database"]["Properties"], STACK["MigrateTask"]["Properties"]
    (container,) = task["ContainerDefinitions"]
    assert database["MasterUserAuthenticationType"] == "iam-db-auth"
    assert {"Name": "RDS_IAM_AUTH", "Value": "true"} in container["Environment"]
    assert {each["Name"] for each in container["Secrets"]} == {"ANALYST_PASSWORD", "PII_REQUESTER_PASSWORD", "PII_APPROVER_PASSWORD"}
    ((action, user),) = allowed(task["TaskRoleArn"].removesuffix(".Arn"))
    assert (action, user.rsplit("/")[-1]) == ("rds-db:connect", database["MasterUsername"])


def test_what_runs_waits_for_the_first_migration_and_no_deployment_resets_the_scaling() -> None:
    late = {name for name, each in STACK.items() if each.get("Condition") == "Migrated"}
    runs = of_type("ECS::Service") | of_type("Scheduler::Schedule") | of_type("ECS::TaskDefinition")
    assert runs.keys() - late == {"MigrateTask"}
    assert {name for name, each in of_type("ECS::TaskDefinition").items() if each["ContainerDefinitions"][0]["Image"] == "Image"} < late
    assert "DesiredCount" not in STACK["Loader"]["Properties"]


def test_the_first_message_starts_a_loader_and_only_quiet_ends_the_last() -> None:
    start, end = STACK["MessagesWait"]["Properties"], STACK["NothingWaits"]["Properties"]
    assert (start["TreatMissingData"], start["Threshold"], start["ComparisonOperator"]) == ("notBreaching", 0, "GreaterThanThreshold")
    policies = {name: each["StepScalingPolicyConfiguration"] for name, each in of_type("ApplicationAutoScaling::ScalingPolicy").items()}
    assert policies["Backlog"]["StepAdjustments"][0] | {"MetricIntervalUpperBound": 0} == {
        "MetricIntervalLowerBound": 0, "MetricIntervalUpperBound": 0, "ScalingAdjustment": 1,
    }  # fmt: skip
    assert {each["AdjustmentType"] for each in policies.values()} == {"ExactCapacity"}
    assert (start["AlarmActions"], end["AlarmActions"], end["TreatMissingData"]) == (["Backlog"], ["Idle"], "notBreaching")
