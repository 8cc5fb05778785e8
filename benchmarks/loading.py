"""The loader against an SQS of constant cost: its speed, its CPU, what landing adds, and its memory.

Each round runs, one after the other, the loader, the loader without landing, a client that does nothing with what it receives (the
harness's ceiling), and the plain boto3 loop that one would write first.
"""

from typing import TYPE_CHECKING, NamedTuple

from benchmarks import stub as stubs
from benchmarks.harness import Bench, NotCountedError, Result, Usage, measure, run

if TYPE_CHECKING:
    from collections.abc import Callable

ROUND_TRIP_SECONDS = 0.025
RECEIVERS = 40
MESSAGES = 200_000
PLAIN_MESSAGES = 50_000  # the plain loop is several times slower
BOUND = RECEIVERS * stubs.BATCH / ROUND_TRIP_SECONDS  # messages per second that the round trip allows
MILLION = 1_000_000
MEGABYTE = 1_000_000


class Run(NamedTuple):
    """One contender's run: messages per second, from the first receive to the last delete, and what its process used."""

    rate: float
    usage: Usage
    messages: int

    @property
    def efficiency(self) -> float:
        """The share of what the round trip allows."""
        return self.rate / BOUND

    @property
    def cpu_per_million(self) -> float:
        """CPU seconds for a million messages, starting and stopping included."""
        return self.usage.cpu_seconds / self.messages * MILLION


def _run(bench: Bench, command: list[str], messages: int, *, lands: bool, round_trip: float = ROUND_TRIP_SECONDS) -> Run:
    with bench.connect() as connection:
        connection.execute("truncate staging.raw_logins, staging.unjudged")
        connection.execute("checkpoint")  # the last run's, which would fall into this one
    with stubs.running() as stub:
        stub.control(round_trip=round_trip)
        stub.preload(messages)
        usage = run(command, bench.environment | stub.environment | {"LOADER_RECEIVERS": str(RECEIVERS)})
        stats = stub.stats()
        seconds = stub.seconds()
    if stats["left"]:
        raise NotCountedError(f"{' '.join(command)} left {stats['left']} messages on the queue")
    if lands:
        with bench.connect() as connection:
            row = connection.execute("select count(distinct message_id), count(*) from staging.raw_logins").fetchone()
        if row != (messages, messages):
            raise NotCountedError(f"{messages} messages were sent, and staging has {row}")
    return Run(messages / seconds, usage, messages)


def _with_landing(bench: Bench) -> Run:
    return _run(bench, ["python", "-m", "loader", "drain"], MESSAGES, lands=True)


def _without_landing(bench: Bench) -> Run:
    return _run(bench, ["python", "-m", "benchmarks.without_landing", "drain"], MESSAGES, lands=False)


def _ceiling(bench: Bench) -> Run:
    return _run(bench, ["python", "-m", "benchmarks.null_client"], MESSAGES, lands=False)


def _plain_boto3(bench: Bench) -> Run:
    return _run(bench, ["python", "-m", "benchmarks.plain_boto3"], PLAIN_MESSAGES, lands=False)


@measure
def loading(bench: Bench) -> list[Result]:
    """Speed and CPU at a round trip of 25 ms with 40 receivers."""
    contenders: list[Callable[[Bench], Run]] = [_with_landing, _without_landing, _ceiling, _plain_boto3]
    rounds = [[contender(bench) for contender in contenders] for _ in range(bench.runs)]
    landing, alone, ceiling, plain = (list(column) for column in zip(*rounds, strict=True))
    ceilings = [each.efficiency for each in ceiling]
    cpu_ceilings = [each.cpu_per_million for each in ceiling]
    return [
        Result("round-trip efficiency", "share of the bound", [each.efficiency for each in landing], at_least=0.9, ceiling=ceilings),
        Result("  of a plain boto3 loop, no landing", "share of the bound", [each.efficiency for each in plain], note="for comparison"),
        Result("CPU", "s per million messages", [each.cpu_per_million for each in landing], at_most=60, ceiling=cpu_ceilings),
        Result(
            "  of a plain boto3 loop, no landing", "s per million messages", [each.cpu_per_million for each in plain], note="for comparison"
        ),
        Result(
            "cost of landing",
            "time over receiving and deleting alone",
            [one.rate / other.rate - 1 for one, other in zip(alone, landing, strict=True)],
            at_most=0.1,
        ),
    ]


@measure
def memory(bench: Bench) -> list[Result]:
    """Peak memory after a million messages, and after ten thousand."""
    command = ["python", "-m", "loader", "drain"]
    few = [_run(bench, command, 10_000, lands=True, round_trip=0).usage.peak_bytes for _ in range(bench.runs)]
    many = [_run(bench, command, MILLION, lands=True, round_trip=0).usage.peak_bytes for _ in range(bench.runs)]
    return [
        Result("peak memory after 1,000,000", "MB", [size / MEGABYTE for size in many], at_most=100),
        Result("peak memory after 1,000,000", "times that after 10,000", [size / sorted(few)[len(few) // 2] for size in many], at_most=1.1),
    ]
