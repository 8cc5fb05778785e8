"""What the loader remembers: leases and room."""

import pytest

from loader.errors import backoff_seconds
from loader.held import Held
from loader.sqs import Message


def messages(*handles: str, weight: int = 100) -> list[Message]:
    return [Message(handle, 0, " " * weight, "", handle) for handle in handles]


def holding(*handles: str, keep_seconds: float = 100) -> Held:
    """Held since 0, by a lease of 10 s."""
    held = Held(10, keep_seconds, 20, 30_000)
    held.take(messages(*handles), now=0)
    return held


def test_a_lease_is_due_at_half_time_and_not_when_it_has_lapsed() -> None:
    held = holding("a", "b")
    held.take(messages("c"), now=4)
    for now, due, ours in ((4.9, "", "abc"), (5, "ab", "abc"), (9, "abc", "abc"), (10, "c", "c")):
        assert held.due(now) == list(due)
        assert held.ours(["a", "b", "c", "unknown"], now) == list(ours)


def test_an_extension_counts_from_when_it_was_asked_for() -> None:
    held = holding("a", "b")
    held.extend(["a", "dropped meanwhile"], asked_at=5)
    assert held.ours("ab", 14.9) == ["a"]
    assert held.ours("ab", 15) == []
    assert len(held) == 2


def test_nothing_is_extended_for_ever() -> None:
    held = holding("a", keep_seconds=30)
    for now in (5, 10, 15, 20, 25):
        assert held.due(now) == ["a"]
        held.extend(["a"], now)
    assert held.due(30) == held.ours("a", 36) == []


def test_what_was_let_go_of_is_not_deleted_on() -> None:
    held = holding("a")
    held.drop(["a", "unknown"])
    assert held.ours("a", 1) == []
    assert not held


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
    held = Held(10, 100, 20, 30_000)
    held.take(messages(*"abcdefghij"[:already], weight=weight), now=0)
    if landed:
        held.bytes = 0
    assert held.has_room(under_way) is has_room


def test_backing_off_doubles_up_to_a_bound() -> None:
    for failures, least, most in ((0, 0, 0), (1, 0.05, 0.1), (2, 0.1, 0.2), (20, 2.5, 5)):
        assert least <= backoff_seconds(failures) <= most
