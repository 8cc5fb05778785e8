"""The documentation says what is there: every object that dbt documents, the masking policy in docs/masking.md, README's lineage."""

import json
import os
import re
from pathlib import Path
from typing import Any

from tests import canaries
from tests.judging.conftest import Warehouse
from tests.support import ROOT, Database, environment, land

README = ROOT / "README.md"
LINEAGE = re.compile(r"^(```mermaid\n)(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)
# What the views of database/ read, but for what has been judged already.
READ = "select view_name::text, table_name::text, table_schema::text from information_schema.view_table_usage where table_schema <> 'marts'"
MASKING = ROOT / "docs" / "masking.md"
POLICY = re.compile(r"(?<=^\| column \| path \| type \|)(.*?\n\|[-|]+\|\n)((?:\|.*\n)*)", re.MULTILINE)
# A field that is added is described where it is declared, in user_logins.yml.
MODELS = ("model.user_logins.user_logins", "model.user_logins.stg_logins")
DESCRIBED_IN = dict.fromkeys(
    ("model.user_logins.analytics_user_logins", "source.user_logins.staging.logins", "source.user_logins.staging.unjudged_logins"), MODELS
)


def assert_reviewed(path: Path, part: re.Pattern[str], expected: str) -> None:
    """What *part* finds in the file is *expected*; `make snapshot` writes it so."""
    if os.environ.get("SNAPSHOT") == "write":
        path.write_text(part.sub(lambda found: found[1] + expected, path.read_text()))
    found = part.search(path.read_text())
    assert found
    assert found[2] == expected, "make snapshot writes it anew"


def test_everything_in_the_docs_is_described_and_no_personal_value_is_in_them(warehouse: Warehouse) -> None:
    land(warehouse.database, canaries.events())
    warehouse.dbt("run")
    warehouse.dbt("docs", "generate", "--static")
    page = (warehouse.target / "static_index.html").read_text()
    assert "analytics_user_logins" in page
    assert not canaries.found_in(page, [*canaries.VALUES, environment(warehouse.database)["TRANSFORMER_PASSWORD"]])
    manifest, catalog = (json.loads((warehouse.target / name).read_text()) for name in ("manifest.json", "catalog.json"))
    undescribed = []
    for kind in ("nodes", "sources", "macros", "exposures", "unit_tests"):
        for name, node in manifest[kind].items():
            if node["package_name"] == "user_logins" and node["resource_type"] != "operation" and not node.get("test_metadata"):
                parts = [{"name": ""} | node, *node.get("columns", {}).values(), *node.get("arguments", [])]
                undescribed += [f"{name} {part['name']}" for part in parts if not part["description"]]

    assert undescribed == []
    relations = manifest["nodes"] | manifest["sources"]
    undocumented = [
        f"{name}.{column}"
        for kind in ("nodes", "sources")
        for name, relation in catalog[kind].items()
        for column in relation["columns"]
        if not any(column in relations[other]["columns"] for other in (name, *DESCRIBED_IN.get(name, ())))
    ]
    assert undocumented == []
    assert len(catalog["nodes"]) >= 7


def test_every_model_has_an_owner_a_tested_grain_and_if_it_is_shown_a_contract_and_a_reader(warehouse: Warehouse) -> None:
    warehouse.dbt("docs", "generate", "--empty-catalog")
    manifest = json.loads((warehouse.target / "manifest.json").read_text())
    models = {node["name"]: node for node in manifest["nodes"].values() if node["resource_type"] == "model"}
    tests = [node for node in manifest["nodes"].values() if node.get("test_metadata")]
    (owner,) = manifest["groups"].values()
    assert {model["group"] for model in models.values()} == {owner["name"]}

    of_column = {(test["attached_node"], test["column_name"], test["test_metadata"]["name"]) for test in tests}
    tested = {test["attached_node"] for test in tests if test["test_metadata"]["name"] == "one_row_per"}
    tested |= {node for node, column, name in of_column if name == "unique" and (node, column, "not_null") in of_column}
    # what stg_logins yields is in the two marts
    assert {name for name, model in models.items() if model["unique_id"] not in tested} == {"stg_logins"}

    access = {name: (model["fqn"][1], model["access"]) for name, model in models.items()}
    assert set(access.values()) == {("staging", "private"), ("marts", "protected"), ("analytics", "public"), ("reports", "public")}
    public = {name for name, (_, kind) in access.items() if kind == "public"}
    # analytics_user_logins has the columns of user_logins' contract
    assert {name for name in public if not models[name]["contract"]["enforced"]} == {"analytics_user_logins"}
    read = {node.rsplit(".")[-1] for exposure in manifest["exposures"].values() for node in exposure["depends_on"]["nodes"]}
    assert read == public


def lineage(manifest: dict[str, Any], database: Database) -> str:
    """In Mermaid: the loader, the sources that models read, what these are made of, and dbt's models; a box for each schema."""
    models = {node["name"]: node for node in manifest["nodes"].values() if node["resource_type"] == "model"}
    named = {node["unique_id"]: node for node in (*models.values(), *manifest["sources"].values())}
    edges = {(named[parent]["name"], name) for name, model in models.items() for parent in model["depends_on"]["nodes"]}
    sources = {source["name"]: source["schema"] for source in manifest["sources"].values() if source["name"] in {name for name, _ in edges}}
    for view, table, schema in database.rows(READ):
        if view in sources:
            edges.add((table, view))
            sources[table] = schema
    boxes = {schema: {name for name, other in sources.items() if other == schema} for schema in sources.values()}
    for model in models.values():
        if model["config"]["materialized"] != "ephemeral":
            boxes.setdefault(model["schema"], set()).add(name if (name := model["name"]) == model["alias"] else f"{name}[{model['alias']}]")
    lines = ["flowchart LR", "    queue[(login-queue)] --> loader([loader]) --> raw_logins & unjudged"]
    children = {parent: sorted(child for above, child in edges if above == parent) for parent, _ in sorted(edges)}
    lines += [f"    {parent} --> {' & '.join(names)}" for parent, names in children.items()]
    for schema, inside in sorted(boxes.items()):
        lines += [f"    subgraph {schema}", *(f"        {name}" for name in sorted(inside)), "    end"]
    return "\n".join([*lines, ""])


def test_the_lineage_in_the_readme_is_the_reviewed_one(warehouse: Warehouse) -> None:
    warehouse.dbt("docs", "generate", "--empty-catalog")
    drawn = lineage(json.loads((warehouse.target / "manifest.json").read_text()), warehouse.database)
    assert_reviewed(README, LINEAGE, drawn)


def test_the_policy_in_the_docs_is_the_reviewed_one(database: Database) -> None:
    rows = database.rows(
        "select column_name, path, json_type, max_length, case when is_required then 'yes' else 'no' end,"
        " domain, canonical_form, fallback_domain, on_personal, reason"
        ' from masking.fields order by column_name collate "C"'
    )
    policy = "".join("| " + " | ".join("" if cell is None else str(cell) for cell in row) + " |\n" for row in rows)
    assert_reviewed(MASKING, POLICY, policy)


def test_an_analyst_can_ask_the_twelve_questions_and_gets_the_columns_that_are_shown(masked_for_all: Database) -> None:
    asked = re.findall(r"```sql\n(.*?)```\n\n```\n(.*?)\n", (ROOT / "docs" / "analysts.md").read_text(), re.DOTALL)
    assert len(asked) == 12
    with masked_for_all.connect("analyst") as connection:
        for query, heading in asked:
            answered = connection.execute(query.encode())
            assert [column.name for column in answered.description or ()] == [name.strip() for name in heading.split("│")]
