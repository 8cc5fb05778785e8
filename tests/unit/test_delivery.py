"""What the loader remembers: how much it holds."""

import pytest

from loader.delivery import Delivery, Held
from loader.errors import backoff_seconds


def delivery(messages: int, weight: int = 100) -> Delivery:
    return Delivery(10, handles=[str(number) for number in range(messages)], rows=[b" " * weight] * messages)


@pytest.mark.parametrize(
    ("already", "weight", "landed", "under_way", "has_room"),
    [
        (0, 1, False, 1, True),
        (0, 1, False, 2, False),  # for a whole answer each
        (3, 1, False, 0, True),
        (3, 1, False, 1, False),  # 7 messages are too few
        (10, 2_500, False, 0, False),  # too heavy
        (10, 2_500, True, 0, True),  # bodies give their bytes back before the message does
        (10, 3_500, True, 0, False),  # the next answer may weigh as much again
        (0, 500_000, False, 0, True),  # one answer may always be held, however heavy
    ],
)
def test_room_is_kept_for_the_answers_under_way(already: int, weight: int, landed: bool, under_way: int, has_room: bool) -> None:  # noqa: FBT001  # a table
    held, taken = Held(20, 30_000), delivery(already, weight)
    if already:
        held.take(taken)
    if landed:
        held.landed(taken)
    assert held.has_room(under_way) is has_room


def test_what_is_dropped_gives_its_room_back_once_and_lets_its_bodies_go() -> None:
    held, first, second = Held(20, 30_000), delivery(7), delivery(2)
    held.take(first)
    held.take(second)
    for _ in range(2):
        held.drop(first)
    assert (held.messages, held.bytes, first.rows, len(first.handles)) == (2, 200, [], 7)


def test_backing_off_doubles_up_to_a_bound() -> None:
    for failures, least, most in ((0, 0, 0), (1, 0.05, 0.1), (2, 0.1, 0.2), (20, 2.5, 5)):
        assert least <= backoff_seconds(failures) <= most
