"""`dbt docs generate` tells a newcomer what everything is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.judging.conftest import Warehouse

GENERIC = ("not_null", "unique", "accepted_values")


@pytest.fixture
def documents(warehouse: Warehouse) -> tuple[dict[str, Any], dict[str, Any]]:
    warehouse.dbt("run")
    paths = ["--target-path", str(warehouse.directory / "target"), "--log-path", str(warehouse.directory / "logs")]
    generate = [str(Path(sys.executable).with_name("dbt")), "docs", "generate", "--project-dir", "dbt_project", *paths]
    ran = subprocess.run(generate, env=warehouse.environ, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stdout
    manifest, catalog = (json.loads((warehouse.directory / "target" / name).read_text()) for name in ("manifest.json", "catalog.json"))
    return manifest, catalog


def test_everything_in_the_docs_is_described(documents: tuple[dict[str, Any], dict[str, Any]]) -> None:
    manifest, catalog = documents
    undescribed = []
    for kind in ("nodes", "sources", "macros", "exposures", "unit_tests"):
        for name, node in manifest[kind].items():
            generated = node["resource_type"] == "test" and node.get("test_metadata") is not None
            if node["package_name"] != "user_logins" or generated or node["resource_type"] == "operation":
                continue
            if not node["description"]:
                undescribed.append(name)
            undescribed += [f"{name}.{column['name']}" for column in node.get("columns", {}).values() if not column["description"]]
            undescribed += [f"{name}({argument['name']})" for argument in node.get("arguments", []) if not argument["description"]]

    assert undescribed == []
    relations = manifest["nodes"] | manifest["sources"]
    undocumented = [
        f"{name}.{column}"
        for kind in ("nodes", "sources")
        for name, relation in catalog[kind].items()
        for column in relation["columns"]
        if column not in relations[name]["columns"]
    ]
    assert undocumented == []
    assert len(catalog["nodes"]) >= 7


def test_each_incremental_model_that_reads_staging_opens_a_window(documents: tuple[dict[str, Any], dict[str, Any]]) -> None:
    models = [
        node
        for node in documents[0]["nodes"].values()
        if node["resource_type"] == "model" and node["config"].get("materialized") == "incremental"
    ]

    assert {"rejected_logins", "user_logins"} <= {node["name"] for node in models}
    for node in models:
        assert "macro.user_logins.open_window" in node["depends_on"]["macros"], node["name"]
        assert "macro.user_logins.close_window" in node["depends_on"]["macros"], node["name"]
