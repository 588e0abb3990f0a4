"""Job that processes the series of one study with several models on one backbone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from medvit.inference.attempt import Perform, attempt
from medvit.inference.series_selection import StudyIndex, choose
from medvit.inference.stack_predictor import PredictionOrError
from medvit.inference.study_job import Collected, StudyJob
from medvit.models.image import AppliesTo
from medvit.records import Item
from medvit.types import Image, Prediction
from medvit.writers import Result, Study
from medvit.writers.optional import LACKS

PredictNamed = Callable[[Image, Collection[str]], Mapping[str, PredictionOrError]]
"""Function that returns the predictions of some models for an image, keyed by the name of the model."""


@dataclass(frozen=True)
class StackJob:
    """Job that processes studies with several models; each model writes into a folder of its name.

    Each of the `readings` is a group of models (keyed by name) that select the same series and read the same pixel
    values.
    """

    predict: PredictNamed
    readings: tuple[Mapping[str, StudyJob], ...]

    @property
    def rules(self) -> list[AppliesTo]:
        """Rules by which the models select series, one for each group in `readings`."""
        return [next(iter(jobs.values())).applies_to for jobs in self.readings]

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the output formats that at least one of the models writes."""
        return tuple(
            dict.fromkeys(name for jobs in self.readings for one in jobs.values() for name in one.outputs.names)
        )

    def on(self, indexes: Sequence[StudyIndex]) -> Perform:
        """Return the job for the studies of a source; each of `indexes` has the series that one of `rules` selects."""
        studies = {same[0].name: same for same in zip(*(index.studies for index in indexes), strict=True)}
        return lambda study, folder: self(studies[study.name], folder)

    def __call__(self, studies: Sequence[Study], folder: Path) -> Result:
        """Return the result of one study, which is given once for each group in `readings`."""
        results: dict[str, Result] = {}
        for jobs, study in zip(self.readings, studies, strict=True):
            results |= self._read_once(jobs, study, folder)
        for name, result in results.items():
            if result.status != "done":
                shutil.rmtree(folder / name, ignore_errors=True)
        return combined(results)

    def _read_once(self, jobs: Mapping[str, StudyJob], study: Study, folder: Path) -> dict[str, Result]:
        """Return the results of models that read the same series, keyed by the name of the model."""
        collected: dict[str, Collected] = {}
        failed: dict[str, Result] = {}
        result = attempt(partial(self._process, jobs, study, folder, collected, failed))
        if result.status != "done":
            return dict.fromkeys(jobs, result) | failed
        return {name: failed.get(name, one.result()) for name, one in collected.items()}

    def _process(
        self,
        jobs: Mapping[str, StudyJob],
        study: Study,
        folder: Path,
        collected: dict[str, Collected],
        failed: dict[str, Result],
    ) -> Result:
        """Add the result of each model to `collected` or, if the model fails, to `failed`."""
        first = next(iter(jobs.values()))
        items = choose(study, first.applies_to, first.series)
        collected |= {name: job.begin(study, num_chosen=len(items)) for name, job in jobs.items()}
        for item in items:
            image = first.read(item)
            for name, found in self.predict(image, jobs.keys() - failed.keys()).items():
                add = partial(_add, found, jobs[name], collected[name], study, item, image, folder / name)
                result = attempt(add)
                if result.status != "done":
                    failed[name] = result
        return Result("done")


def _add(
    found: PredictionOrError, job: StudyJob, collected: Collected, study: Study, item: Item, image: Image, folder: Path
) -> Result:
    if not isinstance(found, Prediction):
        raise found
    folder.mkdir(exist_ok=True)
    job.add(collected, study, item, image, found, folder)
    return Result("done")


def combined(results: Mapping[str, Result]) -> Result:
    """Combine the results of several models, keyed by name, into the result of a study.

    The study is done if it is done for at least one model; the reason then states which results are missing.
    """
    done = {name: result for name, result in results.items() if result.status == "done"}
    notes = [_note(name, result, is_done=bool(done)) for name, result in results.items()]
    worst = next((one for one in results.values() if one.status == "failed"), next(iter(results.values())))
    return Result(
        "done" if done else worst.status,
        "" if done else worst.code,
        "; ".join(filter(None, notes)),
        tuple(f"{name}/{output}" for name, result in done.items() for output in result.outputs),
        tuple(replace(finding, model=name) for name, result in done.items() for finding in result.findings),
    )


def _note(name: str, result: Result, *, is_done: bool) -> str:
    if result.status == "failed" and is_done:
        return f"{LACKS} result of {name}: {result.reason}"
    if result.status == "skipped" and is_done:
        return f"{name} was skipped: {result.reason}"
    return f"{name}: {result.reason}" if result.reason else ""
