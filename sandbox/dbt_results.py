"""What the last `dbt test` found."""

import json
from pathlib import Path


def failed_tests(artefacts: Path) -> list[str]:
    """The tests that failed, from the run_results.json in *artefacts*, each with the count that dbt gives.

    Empty if there is no such file or another command wrote it. Then the tests ran elsewhere (compose runs `show` only after they
    pass), or another command ran after them.
    """
    try:
        last = json.loads((artefacts / "run_results.json").read_text())
    except FileNotFoundError:
        return []
    results = last["results"] if last["args"]["which"] in ("test", "build") else []
    # not the message of an error: it is the server's and may quote a value
    return [
        f"{result['unique_id'].split('.')[2]}: {result['message'] if result['status'] == 'fail' else 'an error, see above'}"
        for result in results
        if result["status"] in ("fail", "error")
    ]
