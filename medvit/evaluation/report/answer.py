"""Question of an evaluation and its answer: main metric, patients and verdict, for readers with one minute."""

from __future__ import annotations

from medvit.document import Block, Callout, Section, Table
from medvit.evaluation import Evaluation
from medvit.evaluation.criteria import CriteriaVerdict, CriterionResult
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.evaluation.report.summary import MAIN
from medvit.metrics import metric_title
from medvit.patients import PatientCount
from medvit.statistics import UNDEFINED, Estimate
from medvit.summary import counted

NO_CRITERIA = "Not judged: no criteria were given before the evaluation."
DOES_NOT_SHOW = (
    "The answer is for images like these: the same kind of patients, devices and labels. It does not show that "
    "using the model helps patients."
)


def answer_part(
    evaluation: Evaluation, verdict: CriteriaVerdict, *, dataset: str, model: str, split: str
) -> ReportPart:
    """Return the section with the question and the verdict, the first of a report."""
    count = f"{counted(len(evaluation.rows), evaluation.rows[0].kind)} of {PatientCount.of(evaluation.rows)}"
    question = f"How well does the model {model} {task_text(evaluation)}? Tested on {count}: {dataset}, split {split}."
    lines = [[metric_title(key, one.positive), str(one.metrics[key]), number] for one, key, number in _main(evaluation)]
    blocks: list[Block] = [
        question,
        _callout(verdict),
        Table(["main metric", "value [95 % interval]", "patients"], lines),
        *in_plain_words(evaluation),
        DOES_NOT_SHOW,
    ]
    numbers = {"name": verdict.name, "criteria": [_plain(outcome) for outcome in verdict.outcomes]}
    return ReportPart(ReportPlace.ANSWER, Section("Question and verdict", blocks), "verdict", numbers)


def task_text(evaluation: Evaluation) -> str:
    """Return what the model is asked to do, as in `detect malignant, against benign`."""
    if evaluation.parts:
        return " and ".join(f"{task_text(part)} ({label})" for label, part in evaluation.parts.items())
    names = ", ".join(evaluation.classes)
    if evaluation.kind == "segmentation":
        return f"outline {', '.join(evaluation.classes[1:])}"
    if evaluation.kind == "regression":
        return f"predict {names}"
    if evaluation.kind == "survival":
        return f"predict the time {evaluation.classes[0].rpartition(' > ')[0]} to an event"
    if evaluation.kind == "multilabel":
        return f"find {names}"
    if evaluation.positive:
        others = [name for name in evaluation.classes if name != evaluation.positive]
        return f"detect {evaluation.positive} (the positive class), against {', '.join(others)}"
    return f"{'grade' if evaluation.is_graded else 'distinguish'} {names}"


def in_plain_words(evaluation: Evaluation) -> list[str]:
    """Return sensitivity and specificity in images out of 100; empty if there is no positive class."""
    metrics, positive = evaluation.metrics, evaluation.positive
    if not positive or not {"sensitivity", "specificity"} <= set(metrics):
        return []
    (other,) = (name for name in evaluation.classes if name != positive)
    kind = f"{evaluation.rows[0].kind}s"
    found, spared = metrics["sensitivity"], metrics["specificity"]
    alarms = Estimate(1 - spared.value, 1 - spared.high, 1 - spared.low)
    return [
        f"Of 100 {kind} with {positive}, the model finds {_of_100(found)}. Of 100 {kind} with {other}, it takes "
        f"{_of_100(alarms)} for {positive}. A case counts as {positive} if its probability is above 0.5."
    ]


def _of_100(share: Estimate) -> str:
    return f"{100 * share.value:.0f} (95 % interval {100 * share.low:.0f} to {100 * share.high:.0f})"


def main_metric(evaluation: Evaluation) -> str:
    """Return the key of the main metric of an evaluation."""
    first = ("kappa_quadratic",) if evaluation.is_graded else ()
    return next((key for key in (*first, *MAIN) if key in evaluation.metrics), next(iter(evaluation.metrics)))


def _main(evaluation: Evaluation) -> list[tuple[Evaluation, str, str]]:
    """Return the main metric of each label, with the number of patients."""
    parts = evaluation.parts.values() if evaluation.parts else [evaluation]
    return [(part, main_metric(part), PatientCount.of(part.rows).cell) for part in parts]


def _callout(verdict: CriteriaVerdict) -> Callout:
    if not verdict.outcomes:
        return Callout([NO_CRITERIA], "unjudged")
    num_met = sum(outcome.is_met for outcome in verdict.outcomes)
    opening = f"{verdict.name.capitalize()}: {num_met} of {len(verdict.outcomes)} criteria are met."
    lines = [opening, *(outcome.text for outcome in verdict.outcomes)]
    return Callout(lines, "passed" if verdict.name == "passed" else "failed")


def _plain(outcome: CriterionResult) -> dict[str, object]:
    numbers = (outcome.estimate or UNDEFINED).plain_interval
    return {**outcome.criterion.tree(), "group": outcome.group, **numbers, "is_met": outcome.is_met}
