"""What the loader remembers: leases, room, outages."""

from loader.held import Budget, DrainEnd, Leases, Outage, backoff_seconds


def test_a_lease_is_due_at_half_time_and_not_when_it_has_lapsed() -> None:
    leases = Leases(10, 100)
    leases.take(["a", "b"], now=0)
    leases.take(["c"], now=4)
    assert leases.due(4.9) == []
    assert leases.due(5) == ["a", "b"]
    assert leases.due(9) == ["a", "b", "c"]
    assert leases.due(10) == ["c"]
    assert leases.lapsed(["a", "b", "c", "unknown"], 10) == ["a", "b", "unknown"]


def test_an_extension_counts_from_when_it_was_asked_for() -> None:
    leases = Leases(10, 100)
    leases.take(["a", "b"], now=0)
    leases.extend(["a", "dropped meanwhile"], asked_at=5)
    assert leases.lapsed(["a", "b"], 14.9) == ["b"]
    assert leases.lapsed(["a", "b"], 15) == ["a", "b"]
    assert len(leases) == 2


def test_nothing_is_extended_for_ever() -> None:
    leases = Leases(10, 30)
    leases.take(["a"], now=0)
    for now in (5, 10, 15, 20, 25):
        assert leases.due(now) == ["a"]
        leases.extend(["a"], now)
    assert leases.due(30) == []
    assert leases.lapsed(["a"], 36) == ["a"]


def test_a_lease_that_sqs_calls_gone_is_not_deleted_on() -> None:
    leases = Leases(10, 30)
    leases.take(["a"], now=0)
    leases.lapse(["a", "unknown"])
    assert leases.lapsed(["a"], 1) == ["a"]
    leases.drop(["a"])
    assert leases.all() == []


def test_the_keeper_sleeps_until_the_first_lease_is_due() -> None:
    leases = Leases(10, 100)
    assert leases.seconds_to_next(0) == 5
    leases.take(["a"], now=0)
    assert leases.seconds_to_next(2) == 3
    assert leases.seconds_to_next(6) == 10 / 40  # due already


def test_room_is_reserved_for_a_whole_answer_and_given_back_in_part() -> None:
    budget = Budget(20, 1_000_000, 10)
    first, second = budget.reserve(), budget.reserve()
    assert not budget.has_room()
    budget.settle(first, 3, 300)
    assert not budget.has_room()  # 7 messages are too few
    budget.settle(second, 0, 0)
    assert budget.has_room()
    budget.reserve()
    assert not budget.has_room()
    budget.give_back(3, 300)
    assert budget.has_room()


def test_bytes_bound_what_is_held_and_bodies_give_theirs_back_before_the_message_does() -> None:
    budget = Budget(1_000, 30_000, 10)
    budget.settle(budget.reserve(), 10, 25_000)
    assert not budget.has_room()
    budget.give_back(0, 25_000)
    assert budget.has_room()


def test_one_answer_may_always_be_held_however_heavy() -> None:
    budget = Budget(100, 10, 10)
    assert budget.has_room()
    budget.settle(budget.reserve(), 10, 5_000_000)
    assert not budget.has_room()
    budget.give_back(10, 5_000_000)
    assert budget.has_room()


def test_an_outage_lasts_from_the_first_failure_in_a_row() -> None:
    outage = Outage()
    assert outage.failed(100.0) == 0
    assert outage.failed(130.0) == 30
    outage.over()
    assert outage.failed(500.0) == 0
    assert outage.failures == 1


def test_what_others_hold_is_waited_for_within_bounds() -> None:
    end = DrainEnd((60, 900), last_message=0)
    for visibility, patience in ((1, 60), (300, 300), (43_200, 900)):
        assert not end.impatient(visibility, patience)
        assert end.impatient(visibility, patience + 1)
    end.messages(500)
    assert not end.impatient(1, 550)


def test_backing_off_doubles_up_to_a_bound() -> None:
    assert 0.05 <= backoff_seconds(1) <= 0.1
    assert 2.5 <= backoff_seconds(20) <= 5
    assert backoff_seconds(20, 0.5) <= 0.5
