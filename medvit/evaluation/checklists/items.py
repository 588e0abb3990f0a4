"""Items of a reporting checklist, and how a report and its team answer them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from medvit.evaluation.checklists.answers import TeamAnswers, reason_of
from medvit.evaluation.fact import Fact
from medvit.evaluation.part import ReportPart


class ItemState(StrEnum):
    """State of an item; each item has exactly one."""

    BY_REPORT = "answered by the report"
    BY_TEAM = "answered by the team"
    BY_BOTH = "answered by report and team"
    IN_PART = "answered in part"
    NOT_STATED = "not stated"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class ChecklistItem:
    """Item of a checklist, in our own words.

    It is answered if all `facts` are in the report and all `keys` are answered by the team. `more_facts` and
    `more_keys` are shown if there are any, but not required.
    """

    number: str
    section: str
    asks: str
    facts: tuple[Fact, ...] = ()
    keys: tuple[str, ...] = ()
    more_facts: tuple[Fact, ...] = ()
    more_keys: tuple[str, ...] = ()
    either: bool = False
    """Whether the facts alone, or the keys alone, answer the item."""
    unless: Fact | None = None
    """Fact without which the item does not apply, if the report or the team states that it cannot exist."""

    @property
    def all_facts(self) -> tuple[Fact, ...]:
        """All facts that answer the item, or a part of it."""
        return (*self.facts, *self.more_facts)

    @property
    def all_keys(self) -> tuple[str, ...]:
        """All keys of `report.yaml` that answer the item, or a part of it."""
        return (*self.keys, *self.more_keys)


@dataclass(frozen=True)
class Checklist:
    """Checklist: its name, the publication, a note for readers, and its items in order."""

    name: str
    source: str
    note: str
    items: tuple[ChecklistItem, ...]


@dataclass(frozen=True)
class Known:
    """Facts that a report states, with the section of each, and the answers of its team."""

    sections: Mapping[Fact, str]
    lacks: Mapping[Fact, str]
    answers: TeamAnswers

    @classmethod
    def of(cls, parts: Iterable[ReportPart], answers: TeamAnswers) -> Known:
        """Collect the facts that the parts of a report declare; the first section that states a fact counts."""
        sections: dict[Fact, str] = {}
        lacks = dict(answers.lacks)
        for part in parts:
            sections |= {fact: part.section.title for fact in part.facts if fact not in sections}
            lacks |= part.lacks
        return cls(sections, {fact: why for fact, why in lacks.items() if fact not in sections}, answers)


@dataclass(frozen=True)
class Answered:
    """Item with its answer: sections of the report, answers of the team by key, and missing ones."""

    item: ChecklistItem
    state: ItemState
    sections: tuple[str, ...] = ()
    given: Mapping[str, str] | None = None
    missing_facts: tuple[Fact, ...] = ()
    missing_keys: tuple[str, ...] = ()
    reason: str = ""
    """Why the item does not apply."""


def answer(item: ChecklistItem, known: Known) -> Answered:
    """Return how an item is answered.

    An item does not apply if the report or the team states that its facts cannot exist. An answer of the team that it
    does not apply counts only if the report states none of its facts.
    """
    if item.unless is not None and item.unless in known.lacks:
        return Answered(item, ItemState.NOT_APPLICABLE, reason=known.lacks[item.unless])
    facts = [fact for fact in item.all_facts if fact in known.sections]
    given = {key: text for key in item.all_keys if (text := known.answers.answer(key))}
    reasons = [reason for text in given.values() if (reason := reason_of(text))]
    if reasons and not facts and len(reasons) == len(given):
        return Answered(item, ItemState.NOT_APPLICABLE, reason=f"{'; '.join(reasons)} (stated by the team)")
    missing_facts = tuple(fact for fact in item.facts if fact not in known.sections)
    missing_keys = tuple(key for key in item.keys if key not in given)
    sections = tuple(dict.fromkeys(known.sections[fact] for fact in facts))
    if item.either and (not missing_facts or not missing_keys):
        missing_facts, missing_keys = (), ()
    state = _state(has_facts=bool(facts), has_keys=bool(given), is_whole=not missing_facts and not missing_keys)
    return Answered(item, state, sections, given, missing_facts, missing_keys)


def _state(*, has_facts: bool, has_keys: bool, is_whole: bool) -> ItemState:
    if not has_facts and not has_keys:
        return ItemState.NOT_STATED
    if not is_whole:
        return ItemState.IN_PART
    if has_facts and has_keys:
        return ItemState.BY_BOTH
    return ItemState.BY_REPORT if has_facts else ItemState.BY_TEAM


def counts(answered: Sequence[Answered]) -> dict[ItemState, int]:
    """Return the number of items in each state, in the order of the states."""
    found = Counter(one.state for one in answered)
    return {state: found[state] for state in ItemState}
