"""`python -m benchmarks [MEASURE…]`: measure, print one table of ratios, and write them as JSON."""

import signal
import sys

import click
from rich.console import Console

from benchmarks import freshness, loading, reading, rotation, scaling, sizing, transforming  # noqa: F401  # they register their measures
from benchmarks.harness import MEASURES, ROOT, NotCountedError, bench, print_table, write_json

RESULTS = ROOT / ".bench" / "results.json"


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(MEASURES)))
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Repetitions; the table has their median.")
@click.option("--seconds", default=60.0, show_default=True, help="How long freshness sends, at each rate.")
def main(names: tuple[str, ...], runs: int, seconds: float) -> None:
    """Measure what the pipeline costs; without names, everything. Takes several minutes, and wants the machine for itself."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated run stops its server, as an interrupted one does
    console = Console(width=None if sys.stdout.isatty() else 140)
    results = []
    with bench(runs, seconds) as prepared:
        for name in names or MEASURES:
            with console.status(f"measuring {name.replace('_', ' ')} …"):
                try:
                    results += MEASURES[name](prepared)
                except NotCountedError as error:
                    click.echo(f"{name}: not counted: {error}", err=True)
                    sys.exit(1)
            write_json(results, RESULTS)  # what is measured is kept, whatever becomes of the rest
    print_table(results, console)
    console.print(f"every run is in {RESULTS.relative_to(ROOT)}", highlight=False)
    if not all(result.holds for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
