"""The command line: `python -m transform follow`."""

import os
import signal
import sys

import click

from loader.errors import LoaderError
from loader.settings import TransformSettings, read
from transform.follower import Follower


@click.group()
def cli() -> None:
    """Run dbt whenever something has landed.

    Everything is set by environment variables, or by .env in the working directory: see .env.example.
    """


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1)
def follow(options: tuple[str, ...]) -> None:
    """Judge and mask what has landed, within seconds, until told to stop by SIGTERM or SIGINT.

    Looks at the work list every second, runs `dbt run --selector each_run` if it is not empty, and `dbt test --selector each_run` every
    TRANSFORM_TEST_SECONDS if there was a run. OPTIONS go to dbt, for example --vars 'max_messages_per_run: 100000'.

    \b
    Exit codes: 0 when told to stop, 78 if a variable is missing or wrong.
    """  # noqa: D301  # \b is click's mark for a paragraph to be left as it is
    follower = Follower(read(TransformSettings, _missing), options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, follower.stop)
    follower.follow()


def _missing() -> list[str]:
    return [] if os.environ.get("TRANSFORMER_PASSWORD") or os.environ.get("RDS_IAM_AUTH") else ["TRANSFORMER_PASSWORD"]


def main() -> None:
    """Run the command line; every error becomes one line on stderr and an exit code."""
    try:
        cli(prog_name="python -m transform")
    except LoaderError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
