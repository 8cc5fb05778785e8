"""What the loader remembers: leases, room, outages, the end of a drain."""

from loader.held import Budget, DrainEnd, Leases, Outage, backoff_seconds


def test_a_lease_is_due_at_half_time_and_not_when_it_has_lapsed() -> None:
    leases = Leases(10, 100)
    leases.take(["a", "b"], now=0)
    leases.take(["c"], now=4)
    assert leases.due(4.9) == []
    assert leases.due(5) == ["a", "b"]
    assert leases.due(9) == ["a", "b", "c"]
    assert leases.due(10) == ["c"]
    assert leases.lapsed(["a", "b", "c", "unknown"], 10) == {"a", "b", "unknown"}


def test_an_extension_counts_from_when_it_was_asked_for() -> None:
    leases = Leases(10, 100)
    leases.take(["a", "b"], now=0)
    leases.extend(["a", "dropped meanwhile"], asked_at=5)
    assert leases.lapsed(["a", "b"], 14.9) == {"b"}
    assert leases.lapsed(["a", "b"], 15) == {"a", "b"}
    assert len(leases) == 2


def test_nothing_is_extended_for_ever() -> None:
    leases = Leases(10, 30)
    leases.take(["a"], now=0)
    for now in (5, 10, 15, 20, 25):
        assert leases.due(now) == ["a"]
        leases.extend(["a"], now)
    assert leases.due(30) == []
    assert leases.lapsed(["a"], 36) == {"a"}


def test_room_is_kept_for_a_whole_answer_to_each_receive_under_way() -> None:
    budget = Budget(20, 1_000_000, 10)
    assert budget.has_room(1)
    assert not budget.has_room(2)
    budget.take(3, 300)
    assert budget.has_room(0)
    assert not budget.has_room(1)  # 7 messages are too few
    budget.messages -= 3
    assert budget.has_room(1)


def test_bytes_bound_what_is_held_and_bodies_give_theirs_back_before_the_message_does() -> None:
    budget = Budget(1_000, 30_000, 10)
    budget.take(10, 25_000)
    assert not budget.has_room(0)
    budget.bytes -= 25_000
    assert budget.has_room(0)


def test_one_answer_may_always_be_held_however_heavy() -> None:
    budget = Budget(100, 10, 10)
    assert budget.has_room(0)
    budget.take(10, 5_000_000)
    assert not budget.has_room(0)
    budget.messages, budget.bytes = 0, 0
    assert budget.has_room(0)
    assert not budget.has_room(1)  # the next may weigh as much


def test_a_lease_that_was_let_go_of_is_not_deleted_on() -> None:
    leases = Leases(10, 30)
    leases.take(["a"], now=0)
    leases.drop(["a", "unknown"])
    assert leases.lapsed(["a"], 1) == {"a"}
    assert not leases


def test_an_outage_lasts_from_the_first_failure_in_a_row() -> None:
    outage = Outage()
    assert outage.failed(100.0) == 0
    assert outage.failed(130.0) == 30
    outage.failures = 0
    assert outage.failed(500.0) == 0
    assert outage.failures == 1


def test_the_end_of_a_drain_is_near_after_empty_answers_in_a_row() -> None:
    end = DrainEnd(last_message=0)
    for messages, empty in ((0, 1), (0, 2), (10, 0), (0, 1)):
        end.answered(messages, 500)
        assert end.empty_answers == empty
    end.answered(0, 600)
    assert end.last_message == 500


def test_backing_off_doubles_up_to_a_bound() -> None:
    assert backoff_seconds(0) == 0
    assert 0.05 <= backoff_seconds(1) <= 0.1
    assert 0.1 <= backoff_seconds(2) <= 0.2
    assert 2.5 <= backoff_seconds(20) <= 5
