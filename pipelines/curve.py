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
from medvit.curves.options import Arm, CurveOptions
from medvit.curves.page import curve_document, protocol_lines, write_page
from medvit.curves.pretraining import PretrainArm, require_unseen
from medvit.curves.results import CurvePoint, lines_of
from medvit.curves.runs import CurveRun, as_tree, chosen_settings, test_runs, tuning_runs
from medvit.curves.trial import Pool, Trial
from medvit.dataset.manifest import Manifest
from medvit.engine import map_items
from medvit.errors import DataError
from medvit.files.atomic import write_text
from medvit.files.spreadsheets import csv_text
from medvit.stage import Run, StageConfig, stage
from medvit.summary import Summary, labeled
from medvit.training.pretraining_options import PretrainingOptions
from medvit.training.trainer import TrainerConfig

log = logging.getLogger("medvit")

SETTINGS, TRIED, RUNS, LINES = "settings.json", "tried.csv", "runs.csv", "curve.json"
"""Chosen settings, written before a test label is read; scores on training patients; scores of draws; all figures."""


class CurveConfig(CurveOptions, StageConfig):
    """Options of `medvit curve`."""

    RESOLVED: ClassVar[tuple[str, ...]] = ("arms",)


@dataclass(frozen=True)
class Curve:
    """Finished curve: its folder, and a point for each number of labels, arm and method (`lines`)."""

    folder: Path
    lines: Sequence[CurvePoint]

    def summary(self) -> Summary:
        """Return the score of the chosen method of each arm at each number of labels, and mark gains."""
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
    finetuning, arms = config.finetuning, config.arms_in_force()
    run.in_force(arms=arms)
    pool = Pool.of(manifest, str(finetuning.get("label", "label")), config.split)

    pretrained = _pretrained(config, manifest, run)
    starts = _starts(config, pretrained)
    trial = Trial(
        config.dataset, run.folder / "runs", finetuning, starts, config.split, config.tuning_images, config.num_threads
    )
    trial.folder.mkdir(exist_ok=True)
    tried = _done(
        trial, list(tuning_runs(config, arms, with_pixels=bool(pool.label))), config, run, "Choosing settings"
    )
    chosen = chosen_settings(tried)
    write_text(run.folder / SETTINGS, json.dumps(as_tree(chosen), indent=1) + "\n")
    write_text(run.folder / TRIED, _table(tried))

    steps = _pretraining_steps(config) if pretrained else 0
    tested = _done(
        trial, list(test_runs(config, arms, chosen, pretraining_steps=steps)), config, run, "Drawing the curve"
    )
    num_patients = {amount: len({row.patient_id for row in pool.labeled(amount, 0)}) for amount in config.labeled}
    scores = {one: files.load(trial.path(one)) for one in tested}
    lines = lines_of(scores, chosen, num_patients, ways=config.ways, resamples=config.resamples)
    metric = "AUROC" if pool.label else "Dice"
    protocol = protocol_lines(config, pool, steps)
    write_page(run.folder, curve_document(manifest.facts.name, lines, metric, protocol, tried))
    write_text(run.folder / RUNS, _table(tested))
    write_text(run.folder / LINES, json.dumps([line.tree() for line in lines], indent=1) + "\n")
    run.tracker.metrics({f"{line.arm}.{line.way}.{line.num_patients}": line.mean.mean for line in lines})
    run.keep("curve.html", SETTINGS, TRIED, RUNS, LINES)
    return Curve(run.folder, lines)


def _pretrained(config: CurveConfig, manifest: Manifest, run: Run) -> dict[str, tuple[Path, ...]]:
    """Return the checkpoints of each pretrained arm, after pretraining those that are missing."""
    found: dict[str, tuple[Path, ...]] = {}
    if config.pretrained:
        for number, folder in enumerate(config.pretrained):
            run.checkpoint(folder, f"pretrained-{number}").require("backbone")
            require_unseen(folder, manifest, config.split)
        found["pretrained"] = config.pretrained
    given: Tree = {key: config.finetuning[key] for key in ("checkpoint", "backbone") if key in config.finetuning}
    starts: dict[Arm, Tree] = {"pretrained": {}, "continued": given}
    for arm, start in starts.items():
        if arm not in config.arms_in_force() or arm in found:
            continue
        one = PretrainArm(
            config.dataset, run.folder / arm, {**config.pretraining, **start}, config.split, config.num_threads
        )
        engine = config.engine.model_copy(update={"item_timeout_s": None})
        outcomes = list(map_items(one, range(config.pretrainings), config=engine, title=f"Pretraining ({arm})"))
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        found[arm] = tuple(one.path(seed) for seed in range(config.pretrainings))
    return found


def _starts(config: CurveConfig, pretrained: Mapping[str, tuple[Path, ...]]) -> dict[str, tuple[Tree, ...]]:
    """Return the fine-tuning options that set the initial weights of each arm.

    An arm with several pretrained checkpoints has one set of options per checkpoint.
    """
    finetuning, pretraining = config.finetuning, config.pretraining
    weights = next((folders[0] for folders in pretrained.values()), finetuning.get("checkpoint"))
    saved = None if weights is None else Checkpoint.load(Path(weights))
    backbone = finetuning.get("backbone") or pretraining.get("backbone") or (saved.model["backbone"] if saved else {})
    preprocess = finetuning.get("preprocess") or pretraining.get("preprocess") or (saved.preprocess if saved else None)
    random = {
        "checkpoint": None,
        "backbone": {key: value for key, value in backbone.items() if key != "weights"},
        "preprocess": preprocess,
    }
    starts: dict[str, tuple[Tree, ...]] = {"scratch": (random,), "given": ({},)}
    for arm, folders in pretrained.items():
        starts[arm] = tuple({"checkpoint": str(folder), "backbone": random["backbone"]} for folder in folders)
    return starts


def _pretraining_steps(config: CurveConfig) -> int:
    """Return the number of steps of a pretraining run; 0 if the given checkpoints do not record it."""
    if not config.pretrained:
        tree = {**config.pretraining, "dataset": config.dataset, "output": config.output}
        return PretrainingOptions.parse(tree).trainer.steps
    path = config.pretrained[0] / CONFIG
    trainer = read_yaml(path).get("trainer", {}) if path.is_file() else None
    return 0 if trainer is None else TrainerConfig.parse_saved(trainer, source=str(path)).steps


def _done(trial: Trial, runs: Sequence[CurveRun], config: CurveConfig, run: Run, title: str) -> dict[CurveRun, float]:
    """Carry out the runs of a trial and return the score of each; a failed run is reported.

    Raises:
        DataError: If all fail.
    """
    found, failures = {}, []
    for outcome in map_items(trial, runs, config=config.engine, title=title, unit="run"):
        if outcome.error is None and outcome.result is not None:
            found[outcome.item] = outcome.result
        else:
            failures.append(f"{outcome.item.name}: {outcome.error}")
    if runs and not found:
        raise DataError(f"all {len(runs)} runs failed, such as {failures[0]}")
    run.failures += failures
    return found


def _table(scores: Mapping[CurveRun, float]) -> str:
    """Return the scores of runs as CSV."""
    lines = [
        {key: value for key, value in asdict(one).items() if key != "settings"}
        | asdict(one.settings)
        | {"score": score}
        for one, score in scores.items()
    ]
    return csv_text(list(lines[0]) if lines else [], [list(line.values()) for line in lines])
