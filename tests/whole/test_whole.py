"""The whole pipeline against a model of it: whatever is done in whatever order, each message is in one place and nothing is shown.

`make test` plays one story with every rule; `make test-whole` plays others, which Hypothesis makes up, for WHOLE_MINUTES. Of one that
fails it prints the few steps that lead to it; WHOLE_SEED plays the same ones again. put_back.py says how soon faults are found.
"""

import ast
import contextlib
import copy
import dataclasses
import itertools
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from sandbox.postgres import Postgres
from tests import canaries, support
from tests.support import Database, environment
from tests.whole.model import ADDRESSES, EMAIL, Model, Sent
from tests.whole.world import BACKUP, STATEMENTS, TEMPLATE, World, new_id, new_world

MINUTES = float(os.environ.get("WHOLE_MINUTES", "0"))
SEED = os.environ.get("WHOLE_SEED") or secrets.token_hex(4)
USERS = ["person-a", "person-b"]
DEVICES = [canaries.DEVICE_ID, "canary-other-device"]
PLANTED = {EMAIL, *canaries.VALUES, *DEVICES, *(sent for sent, _, _ in ADDRESSES)}
EACH_RUN = ("run", "--selector", "each_run")
BOTH = frozenset({"user_logins", "rejected_logins"})
RUNS = {
    EACH_RUN: BOTH,
    ("build", "--selector", "each_run"): BOTH,
    ("run",): BOTH,
    ("run", "--full-refresh", "--selector", "each_run"): BOTH,
    ("run", "--select", "user_logins.sql"): {"user_logins"},
    ("run", "--select", "rejected_logins.sql"): {"rejected_logins"},
}
logins = st.fixed_dictionaries(
    {
        "user": st.sampled_from(USERS),
        "address": st.integers(0, len(ADDRESSES) - 1),
        "device": st.sampled_from(DEVICES),
        "locale": st.sampled_from([None, "DE"]),
        "kind": st.sampled_from(["login", "login", "envelope", "number", "letter", "cut off"]),
    }
)
numbers = st.integers(0, 9)
Script = list[tuple[str, dict[str, Any]]]  # rules and their arguments


@dataclass
class Effort:
    """How many examples and steps were tried, and how many, in how many seconds, it took until something was wrong."""

    examples: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)
    until_found: tuple[int, int, int] | None = None

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.steps[name] += 1
        with self.checked():
            yield

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.until_found = self.until_found or (self.examples, self.steps.total(), round(time.monotonic() - self.started))
            raise


class Whole(RuleBasedStateMachine):
    """Each rule does a thing to the pipeline, and says the same to the model."""

    def __init__(self, world: World, effort: Effort) -> None:
        super().__init__()
        self.effort = effort
        effort.examples += 1
        self.stack = contextlib.ExitStack()
        self.world = self.stack.enter_context(new_world(world))
        self.model = Model()
        self.sent: list[Sent] = []
        self.held: list[Sent] = []
        self.dead_letters: list[Sent] = []
        self.backup: Model | None = None

    def teardown(self) -> None:
        with contextlib.closing(self.stack), self.world.database.connect("analyst") as analyst:
            assert {name for name, text in support.readable(analyst).items() if canaries.found_in(text, PLANTED)} == set()

    @initialize(events=st.lists(logins, min_size=2, max_size=4), next_events=st.lists(logins, min_size=1, max_size=2))
    def begin(self, events: list[dict[str, Any]], next_events: list[dict[str, Any]]) -> None:
        """Most rules have something to do from the start."""
        self.carry_on(events)
        self.send(next_events)

    @rule(events=st.lists(logins, min_size=1, max_size=4))
    def carry_on(self, events: list[dict[str, Any]]) -> None:
        """What happens most of the time: messages come, land and are judged."""
        self.send(events)
        self.load(twice=False)
        self.dbt(EACH_RUN, empty=False)

    # ── queue and loader ─────────────────────────────────────────────────────────────────────────────────────────────

    @rule(events=st.lists(logins, min_size=1, max_size=4))
    def send(self, events: list[dict[str, Any]]) -> None:
        with self.effort.step("send"):
            made = [Sent(new_id(), 0, **event) for event in events]
            self.sent += made
            self.world.queue.messages |= {one.message_id: one for one in made}

    @rule(events=st.lists(logins, min_size=1, max_size=2), days_ago=st.sampled_from([40, 41]))
    def land_what_is_old_by_now(self, events: list[dict[str, Any]], days_ago: int) -> None:
        with self.effort.step("land_what_is_old_by_now"):
            made = [Sent(new_id(), days_ago, **event) for event in events]
            self.world.land(made)
            self.model.land(made)

    @precondition(lambda self: self.world.queue.messages)
    @rule(twice=st.booleans())
    def load(self, twice: bool) -> None:  # noqa: FBT001  # Hypothesis prints the name
        with self.effort.step("load"):
            self.model.land(list(self.world.queue.messages.values()))
            self.world.drain(twice=twice)
            assert self.world.queue.messages == {}

    @precondition(lambda self: self.world.queue.messages)
    @rule(before=st.sampled_from(["commit", "delete"]))
    def kill_the_loader(self, before: str) -> None:
        with self.effort.step("kill_the_loader"):
            queued = dict(self.world.queue.messages)
            if before == "delete":
                self.model.land(list(queued.values()))
            self.world.drain(kill_at=before)
            assert self.world.queue.messages == queued

    @precondition(lambda self: self.sent)
    @rule(number=numbers)
    def deliver_again(self, number: int) -> None:
        """The same message, whatever has become of it."""
        with self.effort.step("deliver_again"):
            one = self.sent[number % len(self.sent)]
            if one not in self.held and one not in self.dead_letters:
                self.world.queue.messages[one.message_id] = one

    @precondition(lambda self: self.world.queue.messages and not self.world.late)
    @rule()
    def give_up(self) -> None:
        """The oldest message was received too often: it is a dead letter."""
        with self.effort.step("give_up"):
            self.dead_letters.append(self.world.queue.messages.pop(next(iter(self.world.queue.messages))))

    @precondition(lambda self: self.dead_letters and not self.world.late)
    @rule()
    def redrive(self) -> None:
        """A dead letter that is redriven has a new MessageId."""
        with self.effort.step("redrive"):
            made = [dataclasses.replace(one, message_id=new_id()) for one in self.dead_letters]
            self.dead_letters = []
            self.sent += made
            self.world.queue.messages |= {one.message_id: one for one in made}

    @precondition(lambda self: self.world.queue.messages and not self.world.late)
    @rule(events=st.lists(logins, min_size=1, max_size=4))
    def hold_a_landing_open(self, events: list[dict[str, Any]]) -> None:
        """While others carry on."""
        with self.effort.step("hold_a_landing_open"):
            self.held = list(self.world.queue.messages.values())
            self.world.queue.messages = {}
            self.world.hold(self.held)
        self.carry_on(events)

    @precondition(lambda self: self.world.late)
    @rule(commit=st.booleans())
    def end_that_landing(self, commit: bool) -> None:  # noqa: FBT001  # the same
        with self.effort.step("end_that_landing"):
            self.world.end_late(commit=commit)
            if commit:
                self.model.land(self.held)
            else:
                self.world.queue.messages |= {one.message_id: one for one in self.held}
            self.held = []
        if commit:
            self.dbt(EACH_RUN, empty=False)

    # ── dbt ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.model.waiting)
    @rule(words=st.sampled_from(list(RUNS)), empty=st.booleans())
    def dbt(self, words: tuple[str, ...], empty: bool) -> None:  # noqa: FBT001  # the same
        with self.effort.step("dbt"):
            self.model.judge(set(RUNS[words]), empty=empty)
            self.world.dbt(*words, *(["--empty"] if empty else []), codes=(0, 1) if words[0] == "build" else (0,))

    @precondition(lambda self: self.model.waiting)
    @rule(statement=st.sampled_from(list(STATEMENTS)))
    def kill_dbt(self, statement: str) -> None:
        with self.effort.step("kill_dbt"):
            if statement == "lock table only marts.rejected_logins" or not self.world.late:
                self.world.kill_dbt_at(statement)

    @rule(locale_length=st.sampled_from([1, 32]))
    def change_a_rule_and_judge_again(self, locale_length: int) -> None:
        with self.effort.step("change_a_rule_and_judge_again"):
            self.model.locale_length = locale_length
            self.world.change_policy(locale_length)
            self.model.judge_again()
            self.world.dbt("run-operation", "judge_again")

    @precondition(lambda self: not self.model.has_email and not self.world.late)
    @rule()
    def add_a_field(self) -> None:
        """A personal one, which messages have all along; logins that are masked already stay as they are."""
        with self.effort.step("add_a_field"):
            self.world.has_email = True
            self.model.add_email()
            self.world.change_policy(self.model.locale_length)

    # ── recovery ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(person=st.sampled_from(USERS))
    def erase(self, person: str) -> None:
        with self.effort.step("erase"):
            self.model.erase(person)
            self.world.act("select * from recovery.erase(%s)", [[person]])
            if not self.world.late:
                self.world.scrub()

    @precondition(lambda self: not self.world.late and max(self.model.days, default=0) > 0)
    @rule()
    def expire(self) -> None:
        with self.effort.step("expire"):
            self.model.expire()
            self.world.expire()

    @rule()
    def rotate(self) -> None:
        with self.effort.step("rotate"):
            self.model.rotate()
            self.world.act("select * from recovery.rotate()")

    @precondition(lambda self: self.model.masked and not self.world.late)
    @rule(number=numbers, column=st.sampled_from(["masked_ip", "masked_device_id", "masked_email"]))
    def reveal(self, number: int, column: str) -> None:
        with self.effort.step("reveal"):
            masked = [message_id for message_id in self.model.masked if (message_id, column) in self.model.versions]
            if not masked:
                return
            message_id = masked[number % len(masked)]
            expected = self.model.reveal(message_id, column)
            assert self.world.reveal(self.world.tokens()[message_id, column]) == expected

    @precondition(lambda self: self.backup != self.model and not self.world.late)
    @rule()
    def dump(self) -> None:
        with self.effort.step("dump"):
            self.backup = copy.deepcopy(self.model)
            self.world.copy(self.world.database.name, BACKUP)

    @precondition(lambda self: self.backup and self.backup != self.model and not self.world.late)
    @rule()
    def restore(self) -> None:
        """Whoever was erased since is erased again: docs/restoring.md."""
        with self.effort.step("restore"):
            since = self.model.persons
            assert self.backup
            self.model = copy.deepcopy(self.backup)
            self.world.copy(BACKUP, self.world.database.name)
            self.world.has_email = self.model.has_email
            for person in sorted(since - self.model.persons):
                self.model.erase(person)
                self.world.act("select * from recovery.erase(%s)", [[person]])

    # ── after each step ──────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def each_message_is_in_one_place(self) -> None:
        with self.effort.checked():
            places = self.world.places()
            assert places == {name: Counter(dict.fromkeys(getattr(self.model, name), 1)) for name in places}

    @invariant()
    def equal_values_have_equal_tokens_and_no_others(self) -> None:
        with self.effort.checked():
            tokens, expected = self.world.tokens(), self.model.tokens()
            assert tokens.keys() == expected.keys()
            pairs = {(token, expected[key]) for key, token in tokens.items()}
            assert len(pairs) == len({token for token, _ in pairs}) == len({value for _, value in pairs}), pairs
            assert all(token.startswith(f"v{version}:") for token, (version, _, _) in pairs), pairs

    @invariant()
    def an_analyst_sees_nothing_that_was_planted(self) -> None:
        with self.effort.checked():
            assert canaries.found_in(self.world.seen_by_analyst(), PLANTED) == set()

    @invariant()
    def the_audit_is_whole(self) -> None:
        with self.effort.checked():
            assert self.world.audit() == (self.model.acts, None)

    @invariant()
    def an_erased_person_is_not_back(self) -> None:
        with self.effort.checked():
            seen = {user for (user,) in self.world.database.rows("select user_id from analytics.user_logins", "analyst")}
            assert not seen & self.model.persons


@pytest.fixture
def world(
    postgres_server: Postgres, passwords: Mapping[str, str], template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    database = Database(postgres_server, "whole", passwords)
    made = World(database, environment(database), tmp_path)
    for name in ("PGHOST", "PGPORT", "PGDATABASE"):
        monkeypatch.setenv(name, made.environ[name])
    made.copy(template, database.name)
    made.dbt("run")
    made.copy(database.name, TEMPLATE)
    yield made
    with postgres_server.connect() as connection:
        for name in (database.name, TEMPLATE, BACKUP):
            connection.execute(f"drop database if exists {name} with (force)".encode())


A = {"user": "person-a", "address": 0, "device": canaries.DEVICE_ID, "locale": None, "kind": "login"}
B = {"user": "person-b", "address": 1, "device": DEVICES[1], "locale": "DE", "kind": "login"}
WRAPPED, LETTER = A | {"kind": "envelope"}, A | {"kind": "letter"}
CUT, NO_ADDRESS = B | {"kind": "cut off"}, B | {"address": 5, "kind": "number"}
# Each rule at least once, in an order in which each has something to do.
STORY: Script = [
    ("land_what_is_old_by_now", {"events": [A, CUT], "days_ago": 40}),
    ("send", {"events": [A, B, WRAPPED, CUT, LETTER]}),
    ("kill_the_loader", {"before": "commit"}),
    ("kill_the_loader", {"before": "delete"}),
    ("load", {"twice": True}),
    ("dbt", {"words": EACH_RUN, "empty": True}),
    ("kill_dbt", {"statement": "delete from unjudged"}),
    ("dbt", {"words": EACH_RUN, "empty": False}),
    ("send", {"events": [A | {"address": 3}, NO_ADDRESS]}),
    ("hold_a_landing_open", {"events": [B]}),
    ("deliver_again", {"number": 0}),
    ("deliver_again", {"number": 3}),
    ("load", {"twice": False}),
    ("dbt", {"words": ("build", "--selector", "each_run"), "empty": False}),
    ("end_that_landing", {"commit": True}),
    ("add_a_field", {}),
    ("change_a_rule_and_judge_again", {"locale_length": 1}),
    ("carry_on", {"events": [A | {"address": 4}]}),
    ("expire", {}),
    ("rotate", {}),
    ("reveal", {"number": 1, "column": "masked_ip"}),
    ("reveal", {"number": 0, "column": "masked_email"}),
    ("dump", {}),
    ("erase", {"person": "person-a"}),
    ("deliver_again", {"number": 2}),
    ("load", {"twice": False}),
    ("send", {"events": [A, WRAPPED]}),
    ("give_up", {}),
    ("redrive", {}),
    ("load", {"twice": False}),
    ("dbt", {"words": EACH_RUN, "empty": False}),
    ("restore", {}),
    ("dbt", {"words": EACH_RUN, "empty": False}),
]


def play(world: World, script: Script) -> set[str]:
    """Take the steps of *script* that can be taken, look at everything after each, and return the names of the rules."""
    machine = Whole(world, Effort())
    rules = {item.function.__name__: item for item in machine.rules}
    try:
        for name, arguments in script:
            if name == "begin" or all(is_met(machine) for is_met in rules[name].preconditions):
                getattr(machine, name)(**arguments)
                for check in machine.invariants:
                    check.function(machine)
    finally:
        machine.teardown()
    return set(rules)


def fails(world: World, script: Script) -> bool:
    """Whether *script* leads to anything that is wrong."""
    try:
        play(world, script)
    except Exception:  # noqa: BLE001  # it may be another fault than before, as with Hypothesis's own shrinking
        return True
    return False


def shortest(world: World, error: BaseException) -> Script:
    """The steps that Hypothesis noted at *error*, without what it fails without: in some twenty tries, where Hypothesis needs hundreds."""
    said = "\n".join(getattr(error, "__notes__", [])).partition("state = ")[2].partition("\n")[2]
    calls = [statement.value for statement in ast.parse(said).body if isinstance(statement, ast.Expr)]
    named = [(call.func.attr, call.keywords) for call in calls if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)]
    rules = play(world, []) | {"begin"}
    script = [(name, {it.arg or "": ast.literal_eval(it.value) for it in keywords}) for name, keywords in named if name in rules]
    for place in reversed(range(len(script))):
        if fails(world, script[:place] + script[place + 1 :]):
            del script[place]
    for events in [value for _, arguments in script for value in arguments.values() if isinstance(value, list)]:
        for event in list(events) if len(events) > 1 else []:
            place = events.index(event)
            events.remove(event)
            if not events or not fails(world, script):
                events.insert(place, event)
    return script


def test_a_story_with_every_rule(world: World) -> None:
    assert {name for name, _ in STORY} == play(world, STORY)


@pytest.mark.skipif(not MINUTES, reason="make test-whole runs it, for WHOLE_MINUTES")
@pytest.mark.timeout(MINUTES * 60 + 1800)
def test_the_pipeline_does_what_the_model_says(world: World) -> None:
    effort, until = Effort(), time.monotonic() + MINUTES * 60
    unchecked = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "phases": [Phase.generate]}
    chosen = settings(max_examples=10, stateful_step_count=15, **unchecked)  # type: ignore[arg-type]
    try:
        for turn in itertools.takewhile(lambda _: time.monotonic() < until, itertools.count()):
            factory = seed(f"{SEED}-{turn}")(lambda: Whole(world, effort))
            run_state_machine_as_test(factory, settings=chosen)  # type: ignore[arg-type]  # a factory is right too
    except Exception as error:
        print("shortened to:", *(f"{name}({arguments})" for name, arguments in shortest(world, error)), sep="\n    ")
        raise
    finally:
        found = "found after {} examples, {} steps, {} s".format(*effort.until_found) if effort.until_found else "nothing was found"
        print(f"seed {SEED}: {found}; {effort.examples} examples, {effort.steps.total()} steps in all: {dict(effort.steps)}")
