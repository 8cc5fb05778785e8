"""Checks what the rendered resources on stdin say of each other: names, labels, ports, addresses, region."""  # noqa: INP001  a program

import re
import sys
from collections.abc import Iterator
from typing import Any

import yaml

Resource = dict[str, Any]

NOWHERE = "192.0.2.1/32"  # base/network.yaml: the overlay has not said where the database is
TEMPLATES = {"Deployment": ("template",), "Job": ("template",), "CronJob": ("jobTemplate", "spec", "template")}
PROBES = {"startupProbe": "/live", "livenessProbe": "/live", "readinessProbe": "/ready"}
DNS = 53


def pods(resources: list[Resource]) -> Iterator[tuple[str, Resource, dict[str, str]]]:
    """Name, specification and labels of each pod."""
    for resource in resources:
        if path := TEMPLATES.get(resource["kind"]):
            template = resource["spec"]
            for key in path:
                template = template[key]
            yield f"{resource['kind']} {resource['metadata']['name']}", template["spec"], template["metadata"]["labels"]


def selects(selector: Resource, labels: dict[str, str]) -> bool:
    """Whether *selector* takes what has *labels*."""
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def of_a_pod(name: str, pod: Resource, resources: dict[tuple[str, str], Resource]) -> Iterator[str]:
    """What is wrong within a pod, and with what it names."""
    (container,) = pod["containers"]
    needed = {("ServiceAccount", pod["serviceAccountName"])}
    needed |= {("ExternalSecret", each["secret"]["secretName"]) for each in pod["volumes"] if "secret" in each}
    needed |= {("ConfigMap", each["configMapRef"]["name"]) for each in container["envFrom"]}
    yield from (f"{name} names {kind} {missing}, and there is none" for kind, missing in needed - resources.keys())
    if {each["name"] for each in container["volumeMounts"]} != {each["name"] for each in pod["volumes"]}:
        yield f"{name} mounts other volumes than it has"
    if pod.get("nodeSelector") != {"kubernetes.io/arch": "amd64"}:
        yield f"{name} may land on a node that the image is not built for"
    if any(re.search("PASSWORD|SECRET", each["name"]) for each in container.get("env", [])):
        yield f"{name} has a secret in clear"
    if ports := {each["name"] for each in container.get("ports", [])}:
        probes = {probe: container[probe]["httpGet"] for probe in PROBES if probe in container}
        if {probe: each["path"] for probe, each in probes.items()} != PROBES or {each["port"] for each in probes.values()} - ports:
            yield f"{name} must answer on a port of its own: {PROBES}"


def of_the_network(name: str, pod: Resource, policies: list[Resource], postgres: int, scraped: set[str]) -> Iterator[str]:
    """Which way is closed to a pod that needs it; *policies* are those that select it."""
    rules = [rule for policy in policies for rule in policy.get("egress", [])]
    out = {(to.get("ipBlock", {}).get("cidr"), port["port"]) for rule in rules for to in rule["to"] for port in rule["ports"]}
    addresses = {cidr for cidr, port in out if port == postgres}
    if not addresses or NOWHERE in addresses:
        yield f"{name} is not let through to the database"
    if DNS not in {port for _, port in out}:
        yield f"{name} is not let through to the DNS"
    let_in = {port["port"] for policy in policies for rule in policy.get("ingress", []) for port in rule["ports"]}
    if not scraped <= let_in & {each["name"] for each in pod["containers"][0].get("ports", [])}:
        yield f"{name} is scraped on a port that it has not, or lets nobody in on"


def of_the_scaling(scaled: Resource, authentication: Resource, settings: dict[str, str]) -> Iterator[str]:
    """Whether KEDA finds the loader, the region and the queue."""
    (trigger,) = scaled["triggers"]
    if scaled["scaleTargetRef"]["name"] != "loader" or trigger["authenticationRef"]["name"] != "loader":
        yield "KEDA must scale the Deployment loader with the TriggerAuthentication loader"
    read = {each["parameter"]: each["name"] for each in authentication["env"]}
    read |= {"queueURL": trigger["metadata"].get("queueURLFromEnv")}
    if read != {"awsRegion": "AWS_DEFAULT_REGION", "queueURL": "SQS_QUEUE_URL"} or "awsRegion" in trigger["metadata"]:
        yield "KEDA must take the region and the queue from the loader's variables"
    for name in ("PGHOST", "SQS_QUEUE_URL"):
        if "amazonaws" in settings[name] and f".{settings['AWS_DEFAULT_REGION']}." not in settings[name]:
            yield f"{name} is in another region than AWS_DEFAULT_REGION"


def problems(resources: list[Resource]) -> Iterator[str]:
    """What is wrong, in words."""
    named = {(each["kind"], each["metadata"]["name"]): each for each in resources}
    (settings,) = (each["data"] for each in resources if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("settings"))
    policies = [each["spec"] for each in resources if each["kind"] == "NetworkPolicy"]
    monitor = named["PodMonitor", "loader"]["spec"]
    for name, pod, labels in pods(resources):
        yield from of_a_pod(name, pod, named)
        scraped = {each["port"] for each in monitor["podMetricsEndpoints"]} if selects(monitor["selector"], labels) else set()
        own = [each for each in policies if selects(each["podSelector"], labels)]
        yield from of_the_network(name, pod, own, int(settings["PGPORT"]), scraped)
    yield from of_the_scaling(named["ScaledObject", "loader"]["spec"], named["TriggerAuthentication", "loader"]["spec"], settings)
    yield from (f"{name} is in clear in the settings" for name in settings if re.search("PASSWORD|SECRET", name))
    if not any(selects(monitor["selector"], labels) for _, _, labels in pods(resources)):
        yield "the PodMonitor selects no pod"
    for resource in resources:
        labels = resource["metadata"].get("labels", {})
        if resource["kind"] != "Namespace" and "namespace" not in resource["metadata"]:
            yield f"{resource['kind']} {resource['metadata']['name']} would be in whichever namespace kubectl has chosen"
        if resource["apiVersion"].startswith("monitoring.") and "release" not in labels:
            yield f"{resource['kind']} lacks the label that the operator selects"
        if resource["kind"] in {"Deployment", "CronJob", "ScaledObject"} and "after-migration" not in labels:
            yield f"{resource['kind']} {resource['metadata']['name']} would start before the migration"


if __name__ == "__main__":
    sys.exit("\n".join(problems([each for each in yaml.safe_load_all(sys.stdin) if each])) or None)
