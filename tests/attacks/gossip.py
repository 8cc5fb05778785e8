"""The control: the loader, but with the bodies that it lands in its log and in its metrics."""

import sys
from collections.abc import Iterable, Sequence
from unittest import mock

from prometheus_client.core import GaugeMetricFamily, Metric

from loader import __main__ as command_line
from loader.landing import Landing
from loader.report import Report
from loader.sqs import Message

bodies: set[str] = set()


class GossipingLanding(Landing):
    async def land(self, batch: Sequence[Message]) -> int:
        bodies.update(message.body for message in batch)
        print(bodies, file=sys.stderr)
        return await super().land(batch)


class GossipingReport(Report):
    def __init__(self) -> None:
        super().__init__()
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        by_body = GaugeMetricFamily("loader_messages_by_body", "Messages by what they say.", labels=["body"])
        for body in bodies:
            by_body.add_metric([body], 1)
        yield by_body


if __name__ == "__main__":
    with (
        mock.patch.object(command_line, "Landing", GossipingLanding),
        mock.patch.object(command_line, "Report", GossipingReport),
    ):
        command_line.main()
