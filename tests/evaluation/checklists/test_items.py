"""Items of the checklists: complete, and answered only by facts and answers that exist."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medvit.document import Section
from medvit.evaluation.checklists.answers import KEYS, TeamAnswers
from medvit.evaluation.checklists.claim import CLAIM
from medvit.evaluation.checklists.items import ChecklistItem, ItemState, Known, answer, counts
from medvit.evaluation.checklists.stard import STARD
from medvit.evaluation.checklists.tripod import TRIPOD
from medvit.evaluation.fact import Fact
from medvit.evaluation.part import ReportPart, ReportPlace

NOTHING = Known({}, {}, TeamAnswers())
NUMBERS_OF_TRIPOD = """
1 2 3a 3b 3c 4 5a 5b 6a 6b 6c 7 8a 8b 8c 9a 9b 9c 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 16 17
18a 18b 18c 18d 18e 18f 19 20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b 27c
"""
NUMBERS_OF_STARD = """
1 2 3 4 5 6 7 8 9 10 11 12 13 14 15a 15b 15c 15d 16a 16b 16c 17a 17b 18 19 20 21 22 23 24 25 26a 26b 27 28 29
30 31 32 33 34 35 36 37 38 39 40a 40b
"""
LISTS = {
    "CLAIM": (CLAIM, [str(number) for number in range(1, 45)]),
    "TRIPOD": (TRIPOD, NUMBERS_OF_TRIPOD.split()),
    "STARD": (STARD, NUMBERS_OF_STARD.split()),
}
ITEMS = [item for checklist, _ in LISTS.values() for item in checklist.items]
ALL_FACTS = dict.fromkeys(Fact, "A section")


def answers(*names: str) -> TeamAnswers:
    """Answers to some keys; those with a choice get an allowed one."""
    chosen = {"study.design": "prospective", "study.series": "random", "data.collected": "open"}
    tree: dict[str, object] = {}
    for name in names:
        group, _, key = name.rpartition(".")
        target = tree.setdefault(group, {}) if group else tree
        assert isinstance(target, dict)
        target[key] = chosen.get(name, "an answer")
    return TeamAnswers.parse(tree)


@pytest.mark.parametrize(("name", "size"), [("CLAIM", 44), ("TRIPOD", 52), ("STARD", 48)])
def test_every_item_of_a_list_is_there_once_and_in_order(name: str, size: int) -> None:
    checklist, numbers = LISTS[name]
    assert [item.number for item in checklist.items] == numbers
    assert len(set(numbers)) == size


def test_every_item_can_be_answered_and_every_key_answers_an_item() -> None:
    assert {key for item in ITEMS for key in item.all_keys} == set(KEYS)
    assert all(item.facts or item.keys for item in ITEMS)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.number)
def test_an_item_without_facts_and_answers_is_not_stated(item: ChecklistItem) -> None:
    assert answer(item, NOTHING).state is ItemState.NOT_STATED
    assert set(answer(item, NOTHING).missing_facts) == set(item.facts)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.number)
def test_an_item_with_all_facts_and_answers_is_answered_by_those_it_asks_for(item: ChecklistItem) -> None:
    found = answer(item, Known(ALL_FACTS, {}, answers(*KEYS)))
    expected = {(True, True): ItemState.BY_BOTH, (True, False): ItemState.BY_REPORT, (False, True): ItemState.BY_TEAM}
    assert found.state is expected[bool(item.all_facts), bool(item.all_keys)]


@pytest.mark.parametrize("item", [item for item in ITEMS if not item.either], ids=lambda item: item.number)
def test_an_item_that_lacks_one_fact_or_answer_is_never_answered_in_full(item: ChecklistItem) -> None:
    for fact in item.facts:
        known = Known({one: title for one, title in ALL_FACTS.items() if one is not fact}, {}, answers(*KEYS))
        assert answer(item, known).state in (ItemState.IN_PART, ItemState.NOT_STATED)
        assert fact in answer(item, known).missing_facts
    for key in item.keys:
        known = Known(ALL_FACTS, {}, answers(*(one for one in KEYS if one != key)))
        assert answer(item, known).state in (ItemState.IN_PART, ItemState.NOT_STATED)
        assert key in answer(item, known).missing_keys


def test_either_facts_or_answers_are_enough_where_one_of_both_is_asked_for() -> None:
    (item,) = (item for item in CLAIM.items if item.number == "31")
    assert answer(item, Known({Fact.ATTENTION: "Cases"}, {}, TeamAnswers())).state is ItemState.BY_REPORT
    assert answer(item, Known({}, {}, answers("analysis.explainability"))).state is ItemState.BY_TEAM


def test_an_item_does_not_apply_only_with_a_reason() -> None:
    (ensembles,) = (item for item in CLAIM.items if item.number == "27")
    known = Known({}, {Fact.ENSEMBLE: "one model"}, TeamAnswers())
    assert (answer(ensembles, known).state, answer(ensembles, known).reason) == (ItemState.NOT_APPLICABLE, "one model")
    assert answer(ensembles, NOTHING).state is ItemState.NOT_STATED
    (trial,) = (item for item in CLAIM.items if item.number == "34")
    stated = TeamAnswers.parse({"registration": "Not applicable: not a trial"})
    found = answer(trial, replace(NOTHING, answers=stated))
    assert (found.state, found.reason) == (ItemState.NOT_APPLICABLE, "not a trial (stated by the team)")


def test_a_team_cannot_deny_what_the_report_states() -> None:
    (source,) = (item for item in STARD.items if item.number == "40b")
    stated = TeamAnswers.parse({"availability": {"outputs": "not applicable: no outputs"}})
    assert answer(source, Known({Fact.MODEL_HASH: "Lineage"}, {}, stated)).state is ItemState.BY_BOTH


def test_adverse_events_do_not_apply_to_retrospective_studies() -> None:
    (events,) = (item for item in STARD.items if item.number == "32")
    for design, state in {"retrospective": ItemState.NOT_APPLICABLE, "prospective": ItemState.NOT_STATED}.items():
        known = Known.of([], TeamAnswers.parse({"study": {"design": design}}))
        assert answer(events, known).state is state


def test_facts_are_those_that_parts_declare_and_a_stated_fact_is_not_missing() -> None:
    parts = [
        ReportPart(ReportPlace.RESULTS, Section("A", []), facts=frozenset({Fact.RATES})),
        ReportPart(ReportPlace.RESULTS, Section("B", []), facts=frozenset({Fact.RATES, Fact.PLOTS})),
        ReportPart(ReportPlace.RESULTS, Section("C", []), lacks={Fact.PLOTS: "none", Fact.ENSEMBLE: "one model"}),
    ]
    known = Known.of(parts, TeamAnswers())
    assert known.sections == {Fact.RATES: "A", Fact.PLOTS: "B"}
    assert known.lacks == {Fact.ENSEMBLE: "one model"}


def test_counts_add_up_to_the_number_of_items() -> None:
    found = counts([answer(item, NOTHING) for item in CLAIM.items])
    assert found[ItemState.NOT_STATED] == sum(found.values()) == 44
