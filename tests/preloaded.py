"""Our commands imported, and dbt with the project parsed: once, in the process that forks.py forks from."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

from dbt.cli.main import dbtRunner

import sandbox.__main__  # noqa: F401  # these three are there to be forked
from tests.support import ROOT
from transform.dbt import Project

PROJECT = ROOT / "dbt_project"
DATABASE = "nowhere"  # a parsed project has the database's name in it
ENVIRONMENT = {"PGHOST": "nowhere", "PGPORT": "1", "PGDATABASE": DATABASE, "TRANSFORMER_PASSWORD": "none", "DO_NOT_TRACK": "1"}


def _parse() -> Any:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(ValueError):
        os.environ.update(ENVIRONMENT | {"DBT_TARGET_PATH": folder, "DBT_LOG_PATH": folder})
        project = Project()
        project.parse()
        return project.manifest


MANIFEST = _parse()


def run_dbt(words: list[str]) -> int:
    """Run dbt in the working directory and return its exit code; a project that is not ours is parsed, and so is ours for its docs."""
    manifest = MANIFEST if Path.cwd() == PROJECT and "docs" not in words else None
    if manifest:
        name = os.environ["PGDATABASE"]
        for node in (*manifest.nodes.values(), *manifest.sources.values()):
            node.database = name
            node.relation_name = node.relation_name and node.relation_name.replace(DATABASE, name, 1)
    # dbt's static parser has threads, which a fork is without, and would wait for them
    os.environ["DBT_STATIC_PARSER"] = "false"
    result = dbtRunner(manifest=manifest).invoke([*words, "--no-use-colors"])
    if result.exception:
        print(result.exception)
    return 0 if result.success else 2 if result.exception else 1
