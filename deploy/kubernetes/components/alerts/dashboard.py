"""Prints dashboard.json: Grafana's dashboard of the pipeline, in the order in which the person on call asks."""  # noqa: INP001  a program

import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml
from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef

ALERTS = [rule["alert"] for rule in yaml.safe_load(Path(__file__).with_name("alerts.yaml").read_text())["spec"]["groups"][0]["rules"]]
FIRING = f'ALERTS{{alertstate="firing", alertname=~"{"|".join(ALERTS)}"}}'
SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
COLUMNS = 24  # of Grafana's grid
AGE = {"age": "max(loader_oldest_message_age_seconds)"}
OURS = 'namespace="user-logins"'


@dataclass(frozen=True)
class Panel:
    """A panel, and each of its queries by what the legend calls it; `section` is the runbook's, which says what to do."""

    title: str
    queries: dict[str, str]
    section: str = ""
    unit: str = "short"
    is_number: bool = False  # the newest value, large; else a line over time


def rates(*counters: str) -> dict[str, str]:
    """How often each of the loader's *counters* goes up in a second, all loaders together."""
    return {name.replace("_", " "): f"sum(rate(loader_{name}_total[$__rate_interval]))" for name in counters}


def quantiles(histogram: str) -> dict[str, str]:
    """What half, 95 % and 99 % of the observations of *histogram* are below."""
    buckets = f"sum by (le) (rate({histogram}_bucket[$__rate_interval]))"
    return {f"{share * 100:.0f} %": f"histogram_quantile({share}, {buckets})" for share in (0.5, 0.95, 0.99)}


def replicas(deployment: str) -> dict[str, str]:
    """How many pods *deployment* shall have, and how many are ready."""
    metrics = {"wanted": "kube_deployment_spec_replicas", "ready": "kube_deployment_status_replicas_available"}
    return {f"{deployment} {name}": f'{metric}{{{OURS}, deployment="{deployment}"}}' for name, metric in metrics.items()}


ROWS = {
    "Is anything wrong?": [
        Panel("Alerts that fire", {"{{alertname}}": f"max by (alertname) ({FIRING})"}, is_number=True),
        Panel("Age of the oldest message", AGE, "old-messages", "s", is_number=True),
        Panel("Messages in flight", {"in flight": "sum(loader_messages_in_flight)"}, is_number=True),
        Panel("Loaders that may lose a commit", {"unsafe": "sum(loader_durability_unsafe)"}, "delete-failures", is_number=True),
    ],
    "Does the work keep up?": [
        Panel("Messages on the queue", {"waiting and in flight": 'max(keda_scaler_metrics_value{scaledObject="loader"})'}, "old-messages"),
        Panel("Messages in a second", rates("messages_received", "messages_landed", "messages_deleted"), "old-messages", "ops"),
        Panel("Age of the oldest message", AGE, "old-messages", "s"),
    ],
    "How does PostgreSQL take it?": [
        Panel("Time to commit a batch", quantiles("loader_commit_seconds"), "slow-commits", "s"),
        Panel("Messages in a batch", quantiles("loader_batch_messages"), "slow-commits"),
        Panel("Failures of SQS and PostgreSQL", rates("sqs_errors", "database_errors"), "not-ready", "ops"),
    ],
    "What went another way?": [
        Panel("Delivered again", rates("messages_redelivered", "messages_duplicate", "messages_released"), "delete-failures", "ops"),
        Panel("Left on the queue", rates("messages_damaged"), "dead-letters", "ops"),
        Panel("Deletes that failed", rates("message_delete_failures", "message_handles_expired"), "delete-failures", "ops"),
    ],
    "What runs?": [
        Panel("Loaders", replicas("loader"), "not-ready"),
        Panel("dbt", replicas("dbt"), "dbt-late"),
        Panel(
            "KEDA's errors",
            {"errors": 'sum(rate(keda_scaler_detail_errors_total{scaledObject="loader"}[$__rate_interval]))'},
            "scaling-fails",
            "ops",
        ),
        Panel(
            "Time since something expired",
            {"expire": f'time() - kube_cronjob_status_last_successful_time{{{OURS}, cronjob="expire"}}'},
            "expiry-late",
            "s",
        ),
    ],
}


def drawn(panel: Panel, width: int) -> stat.Panel | timeseries.Panel:
    """*panel* as Grafana has it."""
    built = timeseries.Panel().min(0).height(8)
    if panel.is_number:
        newest = common.ReduceDataOptions().calcs(["lastNotNull"])
        built = stat.Panel().reduce_options(newest).no_value("none").height(4)
    built.title(panel.title).datasource(SOURCE).unit(panel.unit).span(width)
    if panel.section:
        built.description(f"docs/runbook.md#{panel.section}")
    for place, (legend, expression) in enumerate(panel.queries.items()):
        query = prometheus.Dataquery().ref_id(chr(ord("A") + place)).expr(expression).legend_format(legend)
        built.with_target(query.instant() if panel.is_number else query.range())
    return built


def built() -> str:
    """The dashboard as JSON."""
    board = dashboard.Dashboard("user-logins").uid("user-logins").tags(["user-logins"]).timezone("utc").readonly()
    board.description("The loader, dbt and what scales them. docs/runbook.md says what to do.")
    board.time("now-6h", "now").refresh("30s").tooltip(DashboardCursorSync.CROSSHAIR)
    board.with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
    ids = itertools.count(1)
    for title, panels in ROWS.items():
        board.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            board.with_panel(drawn(panel, COLUMNS // len(panels)).id(next(ids)))
    return json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False)


if __name__ == "__main__":
    sys.stdout.write(f"{built()}\n")
