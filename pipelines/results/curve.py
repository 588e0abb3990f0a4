"""Curve: the score over the number of labels, with and without pretraining, by a protocol fixed beforehand."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from medvit.artifacts import CONFIG, Checkpoint
from medvit.config import Tree, read_yaml
from medvit.curves import scores as files
from medvit.curves.initial import SharedModel, initial_weights, require_unseen, source_of_weights, with_weights
from medvit.curves.options import CurveOptions
from medvit.curves.page import curve_document, protocol_lines, write_page
from medvit.curves.pool import Pool, PoolOptions
from medvit.curves.pretraining import PretrainArm, without_test_images
from medvit.curves.results import CurvePoint, Design, lines_of
from medvit.curves.runs import (
    EQUAL_STEPS,
    Choices,
    CurveRun,
    chosen_settings,
    chosen_text,
    read_chosen,
    test_runs,
    tuning_draws,
    tuning_runs,
)
from medvit.curves.tables import read_table, table
from medvit.curves.trial import Trial
from medvit.dataset.manifest import Manifest
from medvit.engine import map_items
from medvit.errors import DataError, TrainingError
from medvit.files.atomic import write_text
from medvit.leakage.seen_patients import training_patients
from medvit.stage import Run, StageConfig, stage
from medvit.statistics import Estimate
from medvit.summary import Summary, labeled
from medvit.training.trainer import TrainerConfig

log = logging.getLogger("medvit")

SETTINGS, TRIED, RUNS, LINES = "settings.json", "tried.csv", "runs.csv", "curve.json"
"""Files of a curve: chosen settings, written before any test label is read; scores of tuning; scores of all draws;
points of the curve.
"""


class CurveConfig(CurveOptions, StageConfig):
    """Options of `medvit curve`."""

    RESOLVED: ClassVar[tuple[str, ...]] = ("arms",)
    MAY_CHANGE: ClassVar[tuple[str, ...]] = (*StageConfig.MAY_CHANGE, "engine")


@dataclass(frozen=True)
class Curve:
    """Finished curve: its folder, and a point for each number of labels, initial weights and method (`lines`)."""

    folder: Path
    lines: Sequence[CurvePoint]

    def summary(self) -> Summary:
        """Return the score of each arm (choice of initial weights) at each number of labels, and mark gains."""
        texts = [
            f"{line.num_patients} patients, {line.arm}, {line.way}: {line.mean.mean:.3f}" + " (gain)" * line.is_gain
            for line in self.lines
            if line.is_chosen
        ]
        return Summary(labeled("scores", texts), {"curve.html": "figure and tables", RUNS: "score of every draw"})


@stage
def curve(config: CurveConfig, run: Run) -> Curve:
    """Measure how scores rise with the number of labels, with and without pretraining, and plot the curve."""
    config.check()
    manifest = run.dataset(config.dataset)
    for name, path in (("finetune", config.finetune), ("pretrain", config.pretrain)):
        if path is not None:
            run.require_same(name, hashlib.sha256(path.read_bytes()).hexdigest())
    arms = config.arms_in_force()
    run.in_force(arms=arms)

    model = SharedModel.of(config, without_test_images(manifest, config.split), _given(config, manifest, run))
    kind = "volume" if config.task.slices is not None else model.finetuning.kind
    pool_options = PoolOptions(config.task.label, config.split, kind, config.task.skip_flags)
    pool = Pool.of(manifest, pool_options)
    num_patients = pool.patients_by_amount(config.labeled)
    amounts = tuple(num_patients)
    pool.require_scorable(amounts, tuning_draws(config), limit=config.tuning_images)

    pretrained = _pretrained(config, model, run)
    starts = initial_weights(config, model, pretrained)
    trial = Trial(
        config.dataset,
        run.folder / "runs",
        pool_options,
        config.finetuning,
        starts,
        config.tuning_images,
        config.num_threads,
    )
    trial.folder.mkdir(exist_ok=True)
    runs = list(tuning_runs(config, arms, amounts, is_classification=bool(pool.label)))
    chosen, tried = _chosen(trial, runs, config, run)

    steps = _pretraining_steps(config, pretrained)
    runs = list(test_runs(config, arms, amounts, chosen, pretraining_steps=steps))
    tested = _done(trial, runs, config, run, "Drawing the curve")
    scores = {one: files.load(trial.path(one)) for one in tested}
    num_weights = {arm: len(folders) for arm, folders in pretrained.items()}
    design = Design(
        num_patients, config.draws, config.ways, num_weights, config.resamples, lambda settings: settings.edges(config)
    )
    lines = lines_of(scores, chosen, design)
    _report_edges(lines)
    metric = "AUROC" if pool.label else "Dice"
    write_page(
        run.folder,
        curve_document(manifest.facts.name, lines, metric, protocol_lines(config, pool, steps), tried),
    )
    write_text(run.folder / RUNS, table(tested))
    write_text(run.folder / LINES, json.dumps([line.tree() for line in lines], indent=1) + "\n")
    for line in lines:
        mean = Estimate(line.mean.mean, line.mean.low, line.mean.high)
        run.tracker.metrics(mean.named(f"{line.arm}.{line.way}.{line.num_patients}"))
    run.keep("curve.html", SETTINGS, TRIED, RUNS, LINES)
    return Curve(run.folder, lines)


def _given(config: CurveConfig, manifest: Manifest, run: Run) -> list[Checkpoint]:
    """Return the given checkpoints, after recording them and checking that none was trained on a test patient."""
    folders = {f"pretrained-{number}": folder for number, folder in enumerate(config.pretrained)}
    if config.task.checkpoint is not None:
        folders = {"checkpoint": config.task.checkpoint, **folders}
    found = [run.checkpoint(folder, name).require("backbone") for name, folder in folders.items()]
    if config.public_weights is not None and Path(config.public_weights).is_file():
        with Path(config.public_weights).open("rb") as file:
            run.inputs["weights"] = hashlib.file_digest(file, "sha256").hexdigest()
        run.require_same("weights", run.inputs["weights"])
    source = source_of_weights(config)
    for folder in dict.fromkeys([*folders.values(), *([] if source is None else [source])]):
        require_unseen(folder, manifest, config.split)
    return found


def _pretrained(config: CurveConfig, model: SharedModel, run: Run) -> dict[str, tuple[Path, ...]]:
    """Return the checkpoints of each arm with pretraining, after running the pretrainings that are missing."""
    found: dict[str, tuple[Path, ...]] = {"pretrained": config.pretrained} if config.pretrained else {}
    tree = {**config.pretraining, **model.for_pretraining(config)}
    source = source_of_weights(config)
    seen = frozenset[str]() if source is None else training_patients(source)
    starts: dict[str, tuple[Tree, frozenset[str]]] = {
        "pretrained": (tree, frozenset()),
        "continued": (with_weights(tree, config.given_weights), seen),
    }
    for arm in config.arms_in_force():
        if arm not in starts or arm in found:
            continue
        options, before = starts[arm]
        one = PretrainArm(config.dataset, run.folder / arm, options, config.split, before, config.num_threads)
        seeds = range(config.pretrainings)
        for outcome in list(map_items(one, seeds, config=config.engine, title=f"Pretraining ({arm})")):
            if outcome.error is not None:
                raise outcome.error
        found[arm] = tuple(one.path(seed) for seed in seeds)
    return {arm: found[arm] for arm in config.arms_in_force() if arm in found}


def _chosen(
    trial: Trial, runs: Sequence[CurveRun], config: CurveConfig, run: Run
) -> tuple[Choices, dict[CurveRun, float]]:
    """Return the chosen settings, and all scores from tuning; settings that an earlier run chose are never changed."""
    if (run.folder / SETTINGS).is_file():
        tried = read_table((run.folder / TRIED).read_text(encoding="utf-8"))
        return read_chosen((run.folder / SETTINGS).read_text(encoding="utf-8")), tried
    tried = _done(trial, runs, config, run, "Choosing settings")
    chosen = chosen_settings(tried, config.tuning_draws)
    write_text(run.folder / TRIED, table(tried))
    write_text(run.folder / SETTINGS, chosen_text(chosen))
    return chosen, tried


def _pretraining_steps(config: CurveConfig, pretrained: Mapping[str, Sequence[Path]]) -> int:
    """Return the number of steps of a pretraining run; 0 without pretraining, or if checkpoints do not record it."""
    if config.pretrain is not None:
        return config.objective.trainer.steps
    if not pretrained:
        return 0
    steps = [_recorded_steps(folder / CONFIG) for folder in config.pretrained]
    if not all(steps) and config.equal_steps:
        log.warning(
            "the number of steps of a checkpoint in pretrained is not recorded; there is no baseline of as many steps"
        )
    return max(steps) if all(steps) else 0


def _recorded_steps(path: Path) -> int:
    trainer = read_yaml(path).get("trainer") if path.is_file() else None
    return 0 if trainer is None else TrainerConfig.parse_saved(trainer, source=str(path)).steps


def _done(trial: Trial, runs: Sequence[CurveRun], config: CurveConfig, run: Run, title: str) -> dict[CurveRun, float]:
    """Carry out the runs of a trial and return the score of each; runs that diverged are reported and excluded.

    Raises:
        DataError: If a run failed for another reason than its settings, or if all diverged. The results of the other
            runs are kept, and a resumed curve repeats the runs that failed.
    """
    found: dict[CurveRun, float] = {}
    diverged: list[str] = []
    failed: list[str] = []
    earlier = {one for one in runs if trial.path(one).is_file()}
    for outcome in map_items(trial, runs, config=config.engine, title=title, unit="run"):
        if outcome.error is None and outcome.result is not None:
            found[outcome.item] = outcome.result
            if outcome.item not in earlier:
                _track(outcome.item, outcome.result, run)
        else:
            kept = diverged if isinstance(outcome.error, TrainingError) else failed
            kept.append(f"{outcome.item.name}: {outcome.error}")
    if failed:
        raise DataError(
            f"{len(failed)} of {len(runs)} runs failed, first {failed[0]}; remove the cause, then resume=true repeats "
            "only these runs"
        )
    if not found:
        raise DataError(f"all {len(runs)} runs diverged, first {diverged[0]}; give lower rates")
    run.failures += diverged
    return found


def _track(one: CurveRun, score: float, run: Run) -> None:
    """Record a run of the curve as a child run in MLflow, with its settings and score."""
    child = run.tracker.child(one.name, one.name)
    settings = {key: value for key, value in asdict(one.settings).items() if value}
    names = {"purpose": one.purpose, "arm": one.arm, "way": one.way, "amount": str(one.amount), "draw": one.draw}
    child.params({**names, **settings})
    child.metrics({"score": score})
    child.finish("FINISHED")


def _report_edges(lines: Sequence[CurvePoint]) -> None:
    chosen = [line for line in lines if line.is_chosen and line.arm != EQUAL_STEPS]
    edges = [f"{line.num_patients} patients, {line.arm}: {', '.join(line.edges)}" for line in chosen if line.edges]
    if edges:
        log.warning(
            "the settings of %d of %d chosen methods are at an edge of their grid, and better ones may be outside "
            "(%s); widen rates, lengths or strengths for a new curve",
            len(edges),
            len(chosen),
            "; ".join(edges),
        )
