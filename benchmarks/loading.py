"""The loader against an SQS of constant cost: its speed, its CPU, what landing adds, and its memory.

Each round runs, one after the other, the loader, the loader without landing, a client that does nothing with what it receives, and the
plain boto3 loop that one would write first. Bounds are ratios between them, so that they hold on any machine.
"""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks import stub as stubs
from benchmarks.harness import Bench, NotCountedError, Result, Usage, measure, run

ROUND_TRIP_SECONDS = 0.025
RECEIVERS = (5, 10, 20, 40)
KNEE_SHARE = 0.9
MESSAGES = 200_000
PLAIN_MESSAGES = 50_000  # the plain loop is several times slower
MILLION = 1_000_000
MEGABYTE = 1_000_000


class Run(NamedTuple):
    """One contender's run: messages per second, from the first receive to the last delete, and what its process used."""

    rate: float
    usage: Usage
    messages: int

    @property
    def cpu_per_million(self) -> float:
        """CPU seconds for a million messages, starting and stopping included."""
        return self.usage.cpu_seconds / self.messages * MILLION


def bound(receivers: int) -> float:
    """Messages per second that the round trip allows."""
    return receivers * stubs.BATCH / ROUND_TRIP_SECONDS


def _run(  # noqa: PLR0913  # what a run is made of
    bench: Bench, command: list[str], messages: int, receivers: int, *, lands: bool, round_trip: float = ROUND_TRIP_SECONDS
) -> Run:
    with bench.connect() as connection:
        connection.execute("truncate staging.raw_logins, staging.unjudged")
        connection.execute("checkpoint")  # the last run's, which would fall into this one
    with stubs.running() as stub:
        stub.control(round_trip=round_trip)
        stub.preload(messages)
        usage = run(command, bench.environment | stub.environment | {"LOADER_RECEIVERS": str(receivers)})
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


def _with_landing(bench: Bench, receivers: int) -> Run:
    return _run(bench, ["python", "-m", "loader", "drain"], MESSAGES, receivers, lands=True)


def _without_landing(bench: Bench, receivers: int) -> Run:
    return _run(bench, ["python", "-m", "benchmarks.without_landing", "drain"], MESSAGES, receivers, lands=False)


def _null(bench: Bench, receivers: int, messages: int = MESSAGES) -> Run:
    return _run(bench, ["python", "-m", "benchmarks.null_client"], messages, receivers, lands=False)


def _plain_boto3(bench: Bench, receivers: int) -> Run:
    return _run(bench, ["python", "-m", "benchmarks.plain_boto3"], PLAIN_MESSAGES, receivers, lands=False)


def knee(bench: Bench) -> int:
    """The most receivers that this machine's cores can serve: with more, the null client itself gets less than the round trip allows."""
    most = RECEIVERS[0]
    for receivers in RECEIVERS:
        rate = _null(bench, receivers, PLAIN_MESSAGES).rate
        if rate < KNEE_SHARE * bound(receivers):
            break
        most = receivers
    return most


@measure
def loading(bench: Bench) -> list[Result]:
    """Speed and CPU at a round trip of 25 ms, each as a ratio to what another client reaches in the same round."""
    receivers = knee(bench)
    contenders: list[Callable[[Bench, int], Run]] = [_with_landing, _without_landing, _null, _plain_boto3]
    rounds = [[contender(bench, receivers) for contender in contenders] for _ in range(bench.runs)]
    landing, alone, null, plain = (list(column) for column in zip(*rounds, strict=True))

    def ratios(value: Callable[[Run], float], others: list[Run]) -> list[float]:
        return [value(one) / value(other) for one, other in zip(landing, others, strict=True)]

    return [
        Result("receivers that the cores can serve", "at a round trip of 25 ms", [receivers], note="the knee"),
        Result("speed", "share of the null client's", ratios(lambda run: run.rate, null), at_least=0.9),
        Result(
            "  of the null client", "share of what the round trip allows", [run.rate / bound(receivers) for run in null], note="the floor"
        ),
        Result("CPU of a message", "times the null client's", ratios(lambda run: run.cpu_per_million, null), at_most=3.5),
        Result(
            "CPU of a message",
            "times a plain boto3 loop's, which lands nothing",
            ratios(lambda run: run.cpu_per_million, plain),
            at_most=0.2,  # the null client alone, which parses nothing, takes 0.05
        ),
        Result("  of the loader", "s per million messages", [run.cpu_per_million for run in landing], note="for sizing"),
        Result("  of the null client", "s per million messages", [run.cpu_per_million for run in null], note="the floor"),
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
    few = [_run(bench, command, 10_000, 40, lands=True, round_trip=0).usage.peak_bytes for _ in range(bench.runs)]
    many = [_run(bench, command, MILLION, 40, lands=True, round_trip=0).usage.peak_bytes for _ in range(bench.runs)]
    return [
        Result("peak memory after 1,000,000", "MB", [size / MEGABYTE for size in many], at_most=90),
        Result("peak memory after 1,000,000", "times that after 10,000", [size / sorted(few)[len(few) // 2] for size in many], at_most=1.1),
    ]
