"""The dbt project, parsed when this is imported: once, in the process that forked_dbt's runs are forked from."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

from dbt.cli.main import dbtRunner

from tests.support import ROOT

DATABASE = "judging"  # a parsed project has the database's name in it
FOLDERS = ["--project-dir", str(ROOT / "dbt_project"), "--profiles-dir", str(ROOT / "dbt_project" / "profiles")]
# Nothing is connected to.
ENVIRONMENT = {"PGHOST": "nowhere", "PGPORT": "1", "PGDATABASE": DATABASE, "TRANSFORMER_PASSWORD": "none", "DO_NOT_TRACK": "1"}


def _parse() -> Any:
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        os.environ.update(ENVIRONMENT)
        parsed = dbtRunner().invoke(["--quiet", "parse", *FOLDERS, "--target-path", folder, "--log-path", folder])
    return parsed.result if parsed.success else None


MANIFEST = _parse()
