"""A stub of SQS, for what the emulator cannot do."""

from collections.abc import Iterator

import pytest

from benchmarks import stub as stubs
from benchmarks.stub import Stub


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stubs.running() as running:
        yield running
