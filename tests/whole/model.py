"""What the pipeline must do, said again in sets: the reference that the state machine compares it with. It shares no code with it."""

from collections import Counter
from dataclasses import dataclass, field

# As sent, the one spelling of the address, its network. What is no address has neither.
ADDRESSES = [
    ("198.51.100.231", "198.51.100.231", "198.51.100.0/24"),
    ("::ffff:198.51.100.231", "198.51.100.231", "198.51.100.0/24"),
    ("198.51.100.7", "198.51.100.7", "198.51.100.0/24"),
    ("2001:db8:ca1a:91e5::beef", "2001:db8:ca1a:91e5::beef", "2001:db8:ca1a::/48"),
    ("2001:0DB8:CA1A:91E5:0000:0000:0000:BEEF", "2001:db8:ca1a:91e5::beef", "2001:db8:ca1a::/48"),
    ("canary.of.no.network", None, None),
]
EMAIL = "canary.person@example.com"  # in every message; masked once the field is added
RETENTION_DAYS = 30
Value = tuple[str, str]  # domain and canonical value


@dataclass(frozen=True)
class Sent:
    """One message. Its *kind* is login, envelope (a login in a notification of SNS), number (a login but for its app_version), letter (an
    envelope that nobody knows) or cut off.
    """

    message_id: str
    days_ago: int
    user: str
    address: int
    device: str
    locale: str | None
    kind: str

    @property
    def values(self) -> dict[str, Value]:
        """What its columns are made of; nothing where it cannot be read."""
        if self.kind in {"letter", "cut off"}:
            return {}
        sent, address, network = ADDRESSES[self.address]
        columns = {"masked_ip": ("ip", address) if address else ("invalid_ip", sent), "masked_device_id": ("device_id", self.device)}
        return columns | {"masked_email": ("email", EMAIL)} | ({"masked_network": ("network", network)} if network else {})

    def plain(self, column: str) -> str:
        """What a reveal of the column's token gives back."""
        sent, _, network = ADDRESSES[self.address]
        return {"masked_ip": sent, "masked_device_id": self.device, "masked_network": network or "", "masked_email": EMAIL}[column]


@dataclass
class Model:
    """Where each message is. One that is in none of the sets is on the queue, in an open transaction, or gone for good."""

    raw: dict[str, Sent] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    masked: dict[str, Sent] = field(default_factory=dict)
    rejected: set[str] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    persons: set[str] = field(default_factory=set)
    versions: dict[tuple[str, str], int] = field(default_factory=dict)  # by message and column
    keys: Counter[str] = field(default_factory=lambda: Counter(["ip", "invalid_ip", "network", "device_id"]))  # their versions, by domain
    days: set[int] = field(default_factory=set)  # with a partition, be it empty
    locale_length: int = 32
    has_email: bool = False
    acts: Counter[str] = field(default_factory=Counter)

    def land(self, messages: list[Sent]) -> None:
        for one in messages:
            self.raw.setdefault(one.message_id, one)
            self.waiting.add(one.message_id)
            self.days.add(one.days_ago)

    def judge(self, models: set[str], *, empty: bool = False) -> None:
        """A run of these models. An empty one still deletes the erased and takes off the list what has its outcome."""
        for one in [self.raw[message_id] for message_id in self.waiting]:
            if one.message_id in self.erased or (one.user in self.persons and one.values):
                self._delete(one.message_id)
            elif one.message_id not in self.masked and one.message_id not in self.rejected:
                passes = one.kind in {"login", "envelope"} and len(one.locale or "") <= self.locale_length
                if empty:
                    continue
                if passes and "user_logins" in models:
                    self.masked[one.message_id] = one
                    columns = one.values.keys() - (set() if self.has_email else {"masked_email"})
                    self.versions |= {(one.message_id, column): self.keys[one.values[column][0]] for column in columns}
                elif not passes and "rejected_logins" in models:
                    self.rejected.add(one.message_id)
        for name, outcomes in (("user_logins", self.masked.keys()), ("rejected_logins", self.rejected)):
            self.waiting -= outcomes if name in models else set()

    def judge_again(self) -> None:
        again = self.rejected & self.raw.keys()
        self.rejected -= again
        self.waiting |= again

    def erase(self, person: str) -> None:
        self.persons.add(person)
        for message_id in [message_id for message_id, one in self.raw.items() if one.user == person]:
            self._delete(message_id)
            self.rejected.discard(message_id)
        self.masked = {message_id: one for message_id, one in self.masked.items() if one.user != person}
        self.versions = {key: version for key, version in self.versions.items() if key[0] in self.masked}
        self.acts["erased"] += 1

    def add_email(self) -> None:
        self.has_email = True
        self.keys["email"] = 1

    def expire(self) -> None:
        unjudged = {one.days_ago for message_id, one in self.raw.items() if message_id not in self.masked.keys() | self.rejected}
        for day in {day for day in self.days if day > RETENTION_DAYS} - unjudged:
            self.days.remove(day)
            self.raw = {message_id: one for message_id, one in self.raw.items() if one.days_ago != day}
            self.acts["expired"] += 1

    def rotate(self) -> None:
        known = {value for one in self.raw.values() for value in one.values.values()}
        for (message_id, column), version in self.versions.items():
            value = self.masked[message_id].values[column]
            if version == self.keys[value[0]] and value in known:
                self.versions[message_id, column] += 1
        self.keys.update(list(self.keys))
        self.acts["rotated"] += 1

    def reveal(self, message_id: str, column: str) -> set[str]:
        """The values behind a login's token: each spelling in a message that is still there and was masked under today's key."""
        value = self.masked[message_id].values[column]
        same = [(other, one) for other, one in self.masked.items() if other in self.raw and one.values.get(column) == value]
        now = [one for other, one in same if self.versions.get((other, column)) == self.versions[message_id, column] == self.keys[value[0]]]
        self.acts.update(["reveal_requested", "reveal_approved", "reveal_opened"] + ["reveal_read"] * bool(now))
        return {one.plain(column) for one in now}

    def tokens(self) -> dict[tuple[str, str], tuple[int, str, str]]:
        """By message and column: key version, domain and canonical value. Equal ones must have one token."""
        return {(it, column): (version, *self.masked[it].values[column]) for (it, column), version in self.versions.items()}

    def _delete(self, message_id: str) -> None:
        del self.raw[message_id]
        self.waiting.discard(message_id)
        self.erased.add(message_id)
