"""The control: the loader, but deleting from the queue before it commits. Every fault must make it lose messages."""

import contextlib
from collections.abc import Sequence
from unittest import mock

from loader import __main__ as command_line
from loader import pipeline, sqs
from loader.errors import SqsError
from loader.landing import Landing
from loader.settings import LoaderSettings
from loader.sqs import Message, Queue

opened: list[Queue] = []


class CarelessLanding(Landing):
    async def land(self, batch: Sequence[Message]) -> int:
        for chunk in pipeline.in_tens([message.receipt_handle for message in batch]):
            with contextlib.suppress(SqsError):
                await opened[0].delete(chunk)
        return await super().land(batch)


def connect(settings: LoaderSettings) -> Queue:
    opened.append(sqs.connect(settings))
    return opened[0]


def main() -> None:
    with mock.patch.object(command_line, "Landing", CarelessLanding), mock.patch.object(command_line, "connect", connect):
        command_line.main()


if __name__ == "__main__":
    main()
