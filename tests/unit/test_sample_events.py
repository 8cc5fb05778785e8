import datetime as dt
import ipaddress
import json
from collections import Counter

from sandbox.sample_events import DAY, EVENTS, MALFORMED, NO_ADDRESSES, aged_sample_events, sample_events

DOCUMENTATION_NETWORKS = [
    ipaddress.ip_network(network) for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]


def logins() -> list[dict[str, str]]:
    return [json.loads(body) for body in sample_events() if body not in MALFORMED.values()]


def addresses() -> dict[str, list[str]]:
    """Each address in its canonical form, with the spellings that the sample has of it."""
    spellings: dict[str, list[str]] = {}
    for login in logins():
        if login["ip"] not in NO_ADDRESSES:
            address = ipaddress.ip_address(login["ip"])
            mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
            spellings.setdefault(str(mapped or address), []).append(login["ip"])
    return spellings


def test_the_sample_is_a_thousand_events_the_same_every_time_a_dozen_malformed_each_in_a_way_of_its_own() -> None:
    bodies = list(sample_events())
    assert len(bodies) == EVENTS == 1000
    assert bodies == list(sample_events())
    assert [bodies.count(body) for body in MALFORMED.values()] == [1] * 12
    assert len(set(MALFORMED.values())) == 12


def test_every_address_is_from_a_documentation_range_and_many_have_several_spellings() -> None:
    found = addresses()
    assert len(found) > 100
    for address in found:
        assert any(ipaddress.ip_address(address) in network for network in DOCUMENTATION_NETWORKS)
    several = [address for address, spellings in found.items() if len(set(spellings)) > 1]
    assert min(sum(mark in address for address in several) for mark in ":.") > 20  # of IPv6, and of IPv4 mapped into it


def test_addresses_and_devices_recur_across_users() -> None:
    for field in ("ip", "device_id"):
        users_of: dict[str, set[str]] = {}
        for login in logins():
            users_of.setdefault(login[field], set()).add(login["user_id"])
        assert sum(len(users) > 1 for users in users_of.values()) > 20


def test_locales_are_null_in_part_and_versions_have_two_or_three_parts() -> None:
    assert 200 < sum(login["locale"] is None for login in logins()) < 400
    parts = Counter(len(login["app_version"].split(".")) for login in logins())
    assert set(parts) == {2, 3}
    assert min(parts.values()) > 200


def aged_logins() -> list[tuple[float, dict[str, str]]]:
    """Each login with its age in seconds."""
    return [(age.total_seconds(), json.loads(body)) for age, body in aged_sample_events() if body not in MALFORMED.values()]


def most_within(seconds: float, field: str, other: str) -> int:
    """The most different values of *other* that one value of *field* has within *seconds*."""
    seen: dict[str, list[tuple[float, str]]] = {}
    for age, login in aged_logins():
        seen.setdefault(login[field], []).append((age, login[other]))
    return max(len({value for at, value in events if start - seconds <= at <= start}) for events in seen.values() for start, _ in events)


def test_the_events_come_in_order_over_four_weeks_and_no_day_is_nearly_empty() -> None:
    ages = [age for age, _ in aged_sample_events()]
    assert ages == sorted(ages, reverse=True)
    assert dt.timedelta() <= ages[-1] < dt.timedelta(hours=1)
    assert min(Counter(age.days for age in ages)[day] for day in range(28)) >= 15


def test_there_are_bursts_travellers_and_shared_devices() -> None:
    assert most_within(4 * 60, "device_id", "user_id") >= 40
    assert max(Counter((login["user_id"], age // 240) for age, login in aged_logins()).values()) >= 20
    assert most_within(60 * 60, "user_id", "ip") >= 4
    users_of: dict[str, set[str]] = {}
    for _, login in aged_logins():
        users_of.setdefault(login["device_id"], set()).add(login["user_id"])
    assert sum(len(users) >= 6 for users in users_of.values()) >= 6


def test_a_version_takes_a_week_to_reach_most_logins() -> None:
    shares = []
    for day in range(7):
        versions = [login["app_version"] for age, login in aged_logins() if day <= age / DAY < day + 1]
        shares.append(versions.count("3.0") / len(versions))
    assert shares[0] > 0.6
    assert shares[6] < 0.2
    assert not [login for age, login in aged_logins() if age > 7 * DAY and login["app_version"] == "3.0"]
