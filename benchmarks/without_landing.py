"""The loader, receiving and deleting only: the baseline for the cost of landing."""

from collections.abc import Sequence
from unittest import mock

from loader import __main__ as command_line
from loader.delivery import Delivery
from loader.landing import Landing


class NoLanding(Landing):
    """Says that everything has landed."""

    async def open(self) -> None:
        """Nothing to open."""

    async def land(self, batch: Sequence[Delivery]) -> int:
        """Nothing to do."""
        return sum(len(delivery.handles) for delivery in batch)


if __name__ == "__main__":
    with mock.patch.object(command_line, "Landing", NoLanding):
        command_line.main()
