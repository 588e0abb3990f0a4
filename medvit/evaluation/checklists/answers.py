"""Answers of the team to items of checklists that no run can answer: `report.yaml`.

Every key is asked once, and answers all items of the three checklists that ask for the same. An answer that begins with
`not applicable:` gives the reason why its items do not apply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field

from medvit.config import Config, keys
from medvit.evaluation.fact import Fact

FILE_NAME = "report.yaml"
NOT_APPLICABLE = "not applicable"
HEAD = """\
# Answers of the team for the checklists at the end of report.html: CLAIM 2024, TRIPOD+AI and STARD-AI.
# Remove the "#" before a key and write the answer after it; skip unknown answers. Then evaluate again with
# answers=report.yaml. An item that does not apply: "not applicable: REASON".
# The answers are copied into report.html and metrics.json: names and identifiers of patients must not be in them.
"""


def _with_reason(text: str) -> str:
    """Return a text without surrounding blanks.

    Raises:
        ValueError: If it states that an item is not applicable without giving the reason.
    """
    text = text.strip()
    if text.lower().startswith(NOT_APPLICABLE) and not reason_of(text):
        raise ValueError(f"write the reason, as in '{NOT_APPLICABLE}: no patient was treated before imaging'")
    return text


def reason_of(answer: str) -> str:
    """Return why an item does not apply, according to an answer; empty if the answer does not state this."""
    if not answer.lower().startswith(NOT_APPLICABLE):
        return ""
    return answer[len(NOT_APPLICABLE) :].lstrip(" :,.-").strip()


Text = Annotated[str, AfterValidator(_with_reason)]


class IntendedUse(Config):
    """Intended use of the model."""

    purpose: Text = ""
    """Purpose of the model, and its place in the care of a patient."""
    workflow: Text = ""
    """Whether the test is new or established, and its place in the present or a new workflow."""
    population: Text = ""
    """Patients that the model is for."""
    prevalence: Text = ""
    """Share of these patients who have the condition, with its source."""
    users: Text = ""
    """Users of the model."""
    expertise: Text = ""
    """Tasks of users, and the expertise that they need."""
    out_of_scope: Text = ""
    """Uses that the model is not for."""


class StudyDesign(Config):
    """Design of the study."""

    goal: Text = ""
    """Goal, such as development of a model, feasibility, or comparison."""
    design: Literal["", "prospective", "retrospective"] = ""
    """Whether data collection was planned before (prospective) or after (retrospective) test and reference."""
    setting: Text = ""
    """Setting, such as primary care or screening."""
    centres: Text = ""
    """Number and place of the centers."""
    dates: Text = ""
    """First and last date of recruitment."""
    follow_up: Text = ""
    """End and length of the follow-up."""
    basis: Text = ""
    """On what basis candidates were found, such as symptoms, earlier tests or a registry."""
    series: Literal["", "consecutive", "random", "convenience"] = ""
    """Sampling of the participants."""


class Eligibility(Config):
    """Criteria of inclusion and exclusion."""

    people: Text = ""
    """Criteria for people, in the order of their use."""
    data: Text = ""
    """Criteria for images and other data that were applied before ingest."""


class Flow(Config):
    """Flow of participants before ingest."""

    before_ingest: Text = ""
    """People found, excluded and lost before ingest read the files, with numbers and reasons."""


class Data(Config):
    """Data of the study."""

    sources: Text = ""
    """Where the data come from, for development and evaluation separately, and why these."""
    collected: Literal["", "routine", "for the study", "open"] = ""
    """Whether the data are from routine care, were collected for the study, or are an open repository."""
    representativeness: Text = ""
    """Representativeness of the data for the intended population."""
    subsets: Text = ""
    """Parts of the data that were picked by hand, such as slices or series."""
    deidentification: Text = ""
    """De-identification before ingest."""
    missing: Text = ""
    """Missing data, why they are missing, and how they were handled."""
    acquisition: Text = ""
    """Acquisition protocol as far as files do not state it, such as contrast medium or preparation."""


class Inputs(Config):
    """Inputs of the model."""

    why: Text = ""
    """Why these images and covariates were chosen as inputs."""
    when: Text = ""
    """When and how the inputs were acquired, and whether blinded to the outcome."""
    readers: Text = ""
    """People who pick regions or series by hand, if anybody does."""


class ReferenceStandard(Config):
    """Reference standard (truth)."""

    definition: Text = ""
    """How the truth was obtained, with time horizon."""
    rationale: Text = ""
    """Why this reference standard."""
    cutoffs: Text = ""
    """Cut-offs of the reference standard, and whether they were prespecified."""
    annotators: Text = ""
    """Annotators, with their training and experience."""
    test_set: Text = ""
    """Annotation of the test set: tool and procedure."""
    variability: Text = ""
    """Variation between and within annotators."""
    blinding: Text = ""
    """Knowledge of the annotators: clinical data, results of the model."""
    alike: Text = ""
    """Whether the truth was obtained alike in all groups of patients."""
    interval: Text = ""
    """Time and treatment between imaging and reference standard."""
    alternatives: Text = ""
    """Other diagnoses of those without the condition."""


class SampleSize(Config):
    """Sample size."""

    intended: Text = ""
    """Intended number of patients, for development and evaluation."""
    justification: Text = ""
    """How the number was set, and why it suffices."""


class Analysis(Config):
    """Choices of the analysis."""

    prespecified: Text = ""
    """Analyses that were planned before the results were seen."""
    metrics_why: Text = ""
    """Why these metrics."""
    model_why: Text = ""
    """Why this type of model, and which others were tried."""
    clusters: Text = ""
    """Handling of differences between sites or scanners."""
    fairness: Text = ""
    """Measures for fairness, and their reasons."""
    explainability: Text = ""
    """Methods of explanation, and how they were checked."""
    no_external: Text = ""
    """Tests on external data of another hospital, or the reason for not having any."""


class Availability(Config):
    """Availability of data, code and model."""

    data: Text = ""
    """Where the data are, and the limits on their use."""
    code: Text = ""
    """Place of the code of the analysis."""
    model: Text = ""
    """Where the model is, and the limits on its use."""
    outputs: Text = ""
    """Whether predictions are stored and can be audited."""


class Discussion(Config):
    """Discussion of the results."""

    interpretation: Text = ""
    """Meaning of the results, given the aims and earlier work."""
    failures: Text = ""
    """Discussion of the failures."""
    limitations: Text = ""
    """Limitations: sample, bias, uncertainty, transfer to other patients."""
    implications: Text = ""
    """Implications for practice."""
    ethics: Text = ""
    """Ethics of the use of the test, and standards that were followed."""
    input_quality: Text = ""
    """Way in which poor or missing images are recognized and handled in use."""
    next_steps: Text = ""
    """Next steps of research."""


class TeamAnswers(Config):
    """Answers of the team to items of reporting checklists."""

    title: Text = ""
    """Title of the publication."""
    abstract: Text = ""
    """Structured abstract."""
    background: Text = ""
    """Clinical background and earlier models."""
    objectives: Text = ""
    """Objectives and hypotheses."""
    known_inequalities: Text = ""
    """Known health inequalities between groups of these patients."""
    treatments: Text = ""
    """Treatments before imaging or outcome, and how they were handled."""
    intended_use: IntendedUse = Field(default_factory=IntendedUse)
    study: StudyDesign = Field(default_factory=StudyDesign)
    eligibility: Eligibility = Field(default_factory=Eligibility)
    flow: Flow = Field(default_factory=Flow)
    clinical_table: Text = ""
    """Clinical characteristics of the patients that images do not contain."""
    data: Data = Field(default_factory=Data)
    inputs: Inputs = Field(default_factory=Inputs)
    reference: ReferenceStandard = Field(default_factory=ReferenceStandard)
    sample_size: SampleSize = Field(default_factory=SampleSize)
    thresholds_why: Text = ""
    """Why these thresholds."""
    thresholds_prespecified: Text = ""
    """Whether thresholds were set before the results were seen."""
    analysis: Analysis = Field(default_factory=Analysis)
    ethics: Text = ""
    """Committee and approval, consent or its waiver, or why none was needed."""
    registration: Text = ""
    """Register and number of the study."""
    protocol: Text = ""
    """Place of the protocol, or that it does not exist."""
    funding: Text = ""
    """Funding, and the role of funders."""
    conflicts: Text = ""
    """Interests of all authors."""
    involvement: Text = ""
    """Involvement of patients and the public, or that they were not involved."""
    adverse_events: Text = ""
    """Adverse events of model and reference standard."""
    availability: Availability = Field(default_factory=Availability)
    discussion: Discussion = Field(default_factory=Discussion)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the answers in a YAML file.

        Raises:
            ConfigError: If the file cannot be read, or a key or value is not allowed; the message names the nearest
                known key.
        """
        return cls.load(path)

    def answer(self, key: str) -> str:
        """Return the answer to a key, such as `data.sources`; empty if it is not given."""
        group, _, name = key.rpartition(".")
        return str(getattr(getattr(self, group) if group else self, name))

    @property
    def lacks(self) -> Mapping[Fact, str]:
        """Facts that cannot exist according to the answers, with the reasons."""
        is_retrospective = self.study.design == "retrospective"
        return {Fact.PROSPECTIVE: "the study is retrospective, as the team states"} if is_retrospective else {}


KEYS = tuple(key.name for key in keys(TeamAnswers))
"""Names of all answers, such as `data.sources`."""


def template(answers: TeamAnswers, items_of: Mapping[str, str]) -> str:
    """Return `report.yaml` with the given answers; all other keys are comments.

    `items_of` names the items of checklists that each key answers.
    """
    return HEAD + "".join(f"{line}\n" for line in _lines(answers, items_of))


def _lines(answers: TeamAnswers, items_of: Mapping[str, str]) -> Iterator[str]:
    groups: set[str] = set()
    for key in keys(TeamAnswers):
        group, _, name = key.name.rpartition(".")
        if group and group not in groups:
            groups.add(group)
            yield from ("", f"{group}:")
        margin = "  " * bool(group)
        items = items_of.get(key.name)
        yield f"{margin}# {key.help}{f' {items}.' if items else ''}"
        answer = answers.answer(key.name)
        yield from _entry(name, answer, margin) if answer else [f"#{margin}{name}: "]


def _entry(name: str, answer: str, margin: str) -> list[str]:
    """Return the lines of one answer in YAML."""
    import yaml

    text = yaml.safe_dump({name: answer}, allow_unicode=True, width=100, sort_keys=False)
    return [f"{margin}{line}".rstrip() for line in text.splitlines()]
