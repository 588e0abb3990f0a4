"""Appendix of a report: reporting checklists with links to the sections that answer their items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from medvit.document import References, Section, Table
from medvit.evaluation.checklists.answers import FILE_NAME, TeamAnswers
from medvit.evaluation.checklists.claim import CLAIM
from medvit.evaluation.checklists.items import Answered, Checklist, ItemState, Known, answer, counts
from medvit.evaluation.checklists.stard import STARD
from medvit.evaluation.checklists.tripod import TRIPOD
from medvit.evaluation.part import ReportPart, ReportPlace

CHECKLISTS = (CLAIM, TRIPOD, STARD)
MEANING = (
    "Three checklists for publications, with the place in this report that answers each item, and the answers of the "
    "team. An answer means that something is reported, not that it is good, nor that the report complies with a "
    f"checklist. The file {FILE_NAME} beside this report has a key for every answer of the team: fill in a copy, and "
    f"evaluate again with answers={FILE_NAME}."
)
NOT_ASKED, NOT_STATED = "-", "not stated"
HEAD = ("item", "asks for", "in this report", "answer of the team")


def checklist_parts(parts: Sequence[ReportPart], answers: TeamAnswers) -> list[ReportPart]:
    """Return the parts with the checklists: a table of counts, and a folded section for each list.

    `parts` are all other parts of the report; only the facts that they declare count as reported.
    """
    known = Known.of(parts, answers)
    found = {one.name: (one, [answer(item, known) for item in one.items]) for one in CHECKLISTS}
    lines = [[name, *counts(each).values(), len(each)] for name, (_, each) in found.items()]
    head = Section("Checklists", [MEANING, Table(["", *ItemState, "items"], lines)])
    numbers = {name: _plain(each) for name, (_, each) in found.items()}
    sections = [_section(one, each) for one, each in found.values()]
    return [
        ReportPart(ReportPlace.CHECKLISTS, head, "checklists", numbers),
        *(ReportPart(ReportPlace.CHECKLISTS, section) for section in sections),
    ]


def items_by_key() -> Mapping[str, str]:
    """Return the items of all checklists that each key of `report.yaml` answers, as text."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for one in CHECKLISTS:
        for item in one.items:
            for key in item.all_keys:
                found[key][one.name].append(item.number)
    return {
        key: "; ".join(f"{name}: {', '.join(numbers)}" for name, numbers in lists.items())
        for key, lists in found.items()
    }


def _section(checklist: Checklist, answered: Sequence[Answered]) -> Section:
    lines = [[f"{one.item.number} {one.item.section}", one.item.asks, _reported(one), _stated(one)] for one in answered]
    opening = f"{checklist.source}. {checklist.note}"
    return Section(checklist.name, [opening, Table(HEAD, lines, is_text=True)], is_folded=True)


def _reported(one: Answered) -> object:
    """Return the cell on what the report states: links, and the facts that are missing."""
    if one.state is ItemState.NOT_APPLICABLE:
        return f"not applicable: {one.reason}"
    missing = f"not stated: {', '.join(one.missing_facts)}" if one.missing_facts else ""
    return References(one.sections, missing if missing or one.sections else NOT_ASKED)


def _stated(one: Answered) -> str:
    """Return the cell on what the team answers: its answers, and the keys without one."""
    if one.state is ItemState.NOT_APPLICABLE or not (one.given or one.missing_keys):
        return NOT_ASKED
    given = [f"{key}: {text}" for key, text in (one.given or {}).items()]
    return "\n".join([*given, *(f"{key}: {NOT_STATED}" for key in one.missing_keys)])


def _plain(answered: Sequence[Answered]) -> dict[str, object]:
    """Return the answers to a checklist in the form in which they are written as JSON."""
    items = {one.item.number: _plain_item(one) for one in answered}
    return {"counts": {state.value: number for state, number in counts(answered).items()}, "items": items}


def _plain_item(one: Answered) -> dict[str, object]:
    item: dict[str, object] = {"state": one.state.value}
    if one.reason:
        return item | {"reason": one.reason}
    return item | {
        "sections": list(one.sections),
        "team": dict(one.given or {}),
        "not_stated": [*(fact.value for fact in one.missing_facts), *one.missing_keys],
    }
