"""Demo of every stage on phantoms (synthetic images): 3D volumes, 2D images, whole slides, and images of the eye."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from medvit import phantoms
from medvit.artifacts import Report
from medvit.config import Tree
from medvit.engine import EngineConfig, map_drawn, map_items
from medvit.files.atomic import write_text
from medvit.logs import quiet_libraries
from medvit.stage import Run, StageConfig, stage
from medvit.tracking import TrackingConfig
from pipelines.__main__ import find
from pipelines._demo_summary import NSD_TOLERANCE_MM, NewStudies, first_look, summary

log = logging.getLogger("medvit")

SUMMARY = "summary.txt"
CARD = {"license": "CC0-1.0", "source_url": "drawn by medvit.phantoms", "description": "Phantoms, without any patient."}
FROM_FOLDERS = {"from_folders": "folder"}
NEW_STUDIES, NEW_RADIOGRAPHS, NEW_SLIDES, NEW_EYES = 4, 6, 4, 3
UNLABELED_SEED, NEW_SEED = 500, 1000
"""Seeds of the unlabeled images and of the new studies, different from those of all other images."""
RESAMPLES = 1000
"""Number of bootstrap resamples for the intervals of the reports."""
NUM_OCT = 6
"""Number of patients with OCT of both eyes."""
SLIDE_SHAPE = (640, 768)
"""Sides of the training slides in pixels, as for small biopsies; new slides are larger."""

VOLUMES: Tree = {
    "preprocess": {"kind": "volume", "intensity": {"method": "window", "window_center": 60, "window_width": 400}},
    "backbone": {"size": "micro", "patch_size": 8},
}
IMAGES: Tree = {
    "preprocess": {"kind": "image", "size": [96, 96]},
    "backbone": {"ndim": 2, "channels": 1, "size": "micro", "patch_size": 8},
}
STAINED: Tree = {
    "preprocess": {
        "kind": "image",
        "channels": 3,
        "intensity": {"method": "range", "mean": [0.8, 0.5, 0.8], "std": [0.2, 0.25, 0.15]},
    },
    "backbone": {"ndim": 2, "channels": 3, "size": "micro", "patch_size": 16},
}
RETINAS: Tree = {
    "preprocess": {
        "kind": "image",
        "channels": 3,
        "size": [64, 64],
        "intensity": {"method": "range", "mean": [0.5, 0.3, 0.15], "std": [0.25, 0.15, 0.1]},
    },
    "backbone": {"ndim": 2, "channels": 3, "size": "micro", "patch_size": 8},
}
"""Preprocessing and vision transformer of each domain."""
DECODER: Tree = {"decoder_width": 128, "decoder_depth": 2, "decoder_heads": 4}
TILES: Tree = {"magnification": "20x", "size": 128}
SLIDE_PATIENT = r"(patient-\d+)"
SPLITS: Tree = {"val": 0.15, "test": 0.3}
"""Fractions of patients in the splits of slides and eyes, which have fewer patients than the radiographs."""


class DemoConfig(StageConfig):
    """Options of `medvit demo`."""

    output: Path = Path("demo")
    """New folder for all outputs of the demo."""
    num_volumes: int = Field(60, ge=10)
    """Number of synthetic CT volumes with label maps, for training and evaluation."""
    num_unlabeled: int = Field(20, ge=0)
    """Number of synthetic CT studies in DICOM without labels, for pretraining only."""
    num_radiographs: int = Field(480, ge=20)
    """Number of synthetic radiographs, for training and evaluation."""
    num_slides: int = Field(140, ge=16)
    """Number of synthetic tissue slides with and without tumor, two per patient, for training and evaluation."""
    num_eyes: int = Field(120, ge=16)
    """Number of synthetic patients with photographs of both retinas, some at two visits, for training and evaluation.
    """
    RENAMED: ClassVar[Mapping[str, str]] = {"rounds": "epochs"}

    epochs: int = Field(3, ge=1)
    """Number of epochs of each training run."""
    engine: EngineConfig = EngineConfig(num_processes=2)
    tracking: TrackingConfig = TrackingConfig(experiment="medvit-demo")

    @property
    def folder(self) -> Path:
        """Folder of the summary and of the artifacts of the other stages."""
        return self.output / "summary"


@dataclass(frozen=True)
class Drawing:
    """Phantoms of one kind to draw: a function of `medvit.phantoms`, and its arguments."""

    write: Callable[..., Any]
    folder: Path
    count: int
    options: Mapping[str, Any]

    def draw(self) -> Any:
        """Write the files, and return the result of the function."""
        return self.write(self.folder, self.count, **self.options)


@dataclass(frozen=True)
class DemoStep:
    """Stage to run: its name, its output folder, and its options as on the command line.

    It is picklable, so that several processes can share the steps. The modules of a stage are imported where it runs.
    """

    domain: str
    stage: str
    folder: Path
    options: Tree
    resume: bool
    num_threads: int | None
    """Number of torch threads; None for all cores."""

    @property
    def is_done(self) -> bool:
        """Whether an interrupted demo has finished the stage."""
        return self.resume and self.folder.is_dir()

    def run(self) -> None:
        """Run the stage."""
        what = find(self.stage)
        quiet_libraries("alembic", "numexpr", "lightning.pytorch", "lightning.fabric")  # in a new process
        kind = what.config_type
        if self.num_threads is not None and kind.USES_TORCH:
            import torch

            torch.set_num_threads(self.num_threads)
        what.run(kind.parse({kind.OUTPUT: self.folder, **self.options}, source=what.name))


@dataclass
class DemoStages:
    """Stages of one domain in their order, each with an output folder in the folder of the demo."""

    name: str
    config: DemoConfig
    steps: list[DemoStep] = field(default_factory=list)

    def epochs_of(self, steps: int) -> Tree:
        """Return trainer options for epochs of `steps` steps."""
        return {"epochs": self.config.epochs, "steps_per_epoch": steps}

    @property
    def root(self) -> Path:
        """Folder of the whole demo."""
        return self.config.output.absolute()

    @property
    def key(self) -> Path:
        """Site key of all datasets and predictions."""
        return self.root / "site.key"

    def add(self, stage: str, name: str, **options: Any) -> Path:
        """Add a stage with `options` as on the command line; return its artifact, the folder `name`."""
        config = self.config
        shared = {"seed": config.seed, "resume": config.resume, "tracking": config.tracking.tree()}
        num_processes = _num_processes(config.engine)
        num_threads = None if num_processes == 1 else max(1, (os.cpu_count() or 1) // num_processes)
        step = DemoStep(self.name, stage, self.root / name, {**shared, **options}, config.resume, num_threads)
        self.steps.append(step)
        return step.folder

    def ingest(self, name: str, source: Path, **options: Any) -> Path:
        """Add an ingest of phantoms; return its dataset, the folder `name`."""
        engine = EngineConfig() if _num_processes(self.config.engine) > 1 else self.config.engine
        return self.add("ingest", name, source=source, key=self.key, facts=CARD, engine=engine.tree(), **options)


def run_steps(domains: Sequence[DemoStages], engine: EngineConfig) -> None:
    """Run the steps of each domain in their order, and as many domains at once as the engine has local processes.

    Raises:
        MedvitError: If a stage fails. With resume=true, the stages that have ended are not repeated.
    """
    waiting = {domain.name: [step for step in domain.steps if not step.is_done] for domain in domains}
    running: set[str] = set()

    def draw() -> DemoStep | None:
        """Return the next step of the domain with most steps left, if there is one without a running step."""
        free = [name for name, steps in waiting.items() if steps and name not in running]
        if not free:
            return None
        name = max(free, key=lambda one: len(waiting[one]))
        running.add(name)
        step = waiting[name].pop(0)
        log.info("demo: medvit %s -> %s", step.stage, step.folder)
        return step

    if _num_processes(engine) == 1:
        while (step := draw()) is not None:
            step.run()
            running.clear()
        return
    unlimited = engine.model_copy(update={"item_timeout_s": None})  # the limit is for an image, not for a stage
    for outcome in map_drawn(DemoStep.run, draw, config=unlimited, attempts=1):
        if outcome.error is not None:
            raise outcome.error
        running.remove(outcome.item.domain)


def _num_processes(engine: EngineConfig) -> int:
    """Return the number of local processes; with a Ray cluster, stages run in this one, since they share its folder."""
    return engine.num_processes if engine.name == "processes" else 1


@stage
def demo(config: DemoConfig, run: Run) -> Report:
    """Run ingest, pretrain, finetune, evaluate and predict on synthetic radiology, pathology and eye images."""
    root = config.output.absolute()
    drawn = draw_phantoms(root / "phantoms", config)
    domains = {"organs": organs, "tumors": tumors, "grades": grades, "opacities": opacities, "tomograms": tomograms}
    jobs = [DemoStages(name, config) for name in domains]
    for job, add in zip(jobs, domains.values(), strict=True):
        add(job, drawn)
    run_steps(jobs, config.engine)

    expected = {"ct-predictions": 1, "radiograph-predictions": 0, "slide-predictions": 0, "eye-predictions": 0}
    run.failures += [line for name, count in expected.items() for line in unexpected(root / name, count)]
    studies = NewStudies(NEW_STUDIES, config.seed + NEW_SEED)
    looks = first_look(root, studies, config.tracking)
    run.failures += [f"{one.path} should be shown but does not exist" for one in looks if not one.path.exists()]
    text = summary(root, studies, looks)
    write_text(run.folder / SUMMARY, text)
    run.keep(SUMMARY)
    print(text)
    return Report(run.folder, {})


def organs(job: DemoStages, drawn: Path) -> None:
    """Segment organs in CT, in 3D."""
    organs = {"mask_classes": phantoms.CT_CLASSES}
    volumes = job.ingest("ct", drawn / "ct", scanning={"modality": "CT"}, labeling=organs)
    backbone = job.add(
        "pretrain",
        "ct-backbone",
        dataset=volumes,
        **VOLUMES,
        objective={**DECODER, "views": {"size": [48, 48, 32]}},
        trainer=job.epochs_of(40),
    )
    model = job.add(
        "finetune",
        "ct-model",
        dataset=volumes,
        checkpoint=backbone,
        peft="lora",
        optim={"lr": 2e-3},
        loader={"batch_size": 2},
        trainer=job.epochs_of(75),
    )
    job.add(
        "evaluate",
        "ct-report",
        resamples=RESAMPLES,
        checkpoint=model,
        dataset=volumes,
        nsd_tolerance_mm=NSD_TOLERANCE_MM,
    )
    job.add("predict", "ct-predictions", checkpoint=model, source=drawn / "new-studies", key=job.key)


def opacities(job: DemoStages, drawn: Path) -> None:
    """Classify radiographs with and without an opacity, in 2D."""
    how = {"scanning": {"modality": "DX"}, "labeling": {**FROM_FOLDERS, "positive": "opacity"}}
    images = job.ingest("radiographs", drawn / "radiographs", **how)
    model = classifier(job, "radiograph", images, IMAGES, num_steps=(32, 60))
    job.add("evaluate", "radiograph-report", resamples=RESAMPLES, checkpoint=model, dataset=images)
    job.add("predict", "radiograph-predictions", checkpoint=model, source=drawn / "new-radiographs", key=job.key)


def tumors(job: DemoStages, drawn: Path) -> None:
    """Classify whole slides with and without tumor: pretrain a backbone on tiles, train heads on their embeddings."""
    slides = {"key": job.key, "skip_tiles": ["pen"]}
    shared = {"scanning": {"patient_from": SLIDE_PATIENT}, "splits": SPLITS, "taking": {"tiles": TILES}}
    shared |= {"labeling": {**FROM_FOLDERS, "positive": "tumor"}}
    tiles = job.ingest("slides", drawn / "slides", **shared)
    backbone = job.add(
        "pretrain",
        "slide-backbone",
        dataset=tiles,
        **STAINED,
        slides=slides,
        objective={**DECODER, "views": {"size": [128, 128], "augment": {"flipped_axes": [0, 1]}}},
        optim={"lr": 1e-3},
        loader={"batch_size": 16},
        trainer=job.epochs_of(40),
    )
    model = job.add(
        "finetune",
        "slide-model",
        dataset=tiles,
        checkpoint=backbone,
        slides=slides,
        head="abmil",
        seeds=3,
        optim={"lr": 5e-3},
        loader={"batch_size": 8},
        trainer=job.epochs_of(60),
    )
    job.add("evaluate", "slide-report", resamples=RESAMPLES, checkpoint=model, dataset=tiles, slides=slides)
    job.add("predict", "slide-predictions", checkpoint=model, source=drawn / "new-slides", key=job.key)


def grades(job: DemoStages, drawn: Path) -> None:
    """Grade photographs of the retina; the worse eye determines the grade of a patient."""
    photographs = job.ingest("eyes", drawn / "eyes", labeling=FROM_FOLDERS, splits=SPLITS)
    model = classifier(job, "eye", photographs, RETINAS, num_steps=(30, 75))
    job.add(
        "evaluate",
        "eye-report",
        resamples=RESAMPLES,
        checkpoint=model,
        dataset=photographs,
        order=phantoms.FUNDUS_CLASSES,
    )
    job.add("predict", "eye-predictions", checkpoint=model, source=drawn / "new-eyes", key=job.key)


def tomograms(job: DemoStages, drawn: Path) -> None:
    """Make a dataset of OCT volumes of both eyes."""
    job.ingest("oct", drawn / "oct", labeling=FROM_FOLDERS)


def classifier(job: DemoStages, name: str, images: Path, options: Tree, *, num_steps: tuple[int, int]) -> Path:
    """Pretrain a backbone on images, fine-tune all its weights, and return the folder of the model.

    `num_steps` are the steps per epoch of pretraining and of fine-tuning.
    """
    backbone = job.add(
        "pretrain",
        f"{name}-backbone",
        dataset=images,
        **options,
        objective=DECODER,
        optim={"lr": 1e-3},
        loader={"batch_size": 32},
        trainer=job.epochs_of(num_steps[0]),
    )
    return job.add(
        "finetune",
        f"{name}-model",
        dataset=images,
        checkpoint=backbone,
        peft="full",
        optim={"lr": 1e-3},
        loader={"batch_size": 16},
        trainer=job.epochs_of(num_steps[1]),
    )


def draw_phantoms(folder: Path, config: DemoConfig) -> Path:
    """Write the sources of all stages: NIfTI pairs, unlabeled DICOM studies, PNG files in class folders, new studies.

    Slides for training are pyramidal TIFF; new slides are DICOM. Photographs and OCT volumes of the eye are DICOM. One
    slice of one of the new CT studies is missing.
    """
    if folder.is_dir():
        return folder
    log.info("demo: drawing phantoms -> %s", folder)
    partial = folder.with_name(f"{folder.name}.partial")
    seed, new_seed = config.seed, config.seed + NEW_SEED
    studies = Drawing(phantoms.write_ct_studies, partial / "new-studies", NEW_STUDIES, {"seed": new_seed})
    drawings = [
        Drawing(phantoms.write_slides, partial / "slides", config.num_slides, {"seed": seed, "shape": SLIDE_SHAPE}),
        Drawing(phantoms.write_ct_pairs, partial / "ct", config.num_volumes, {"seed": seed}),
        Drawing(phantoms.write_fundus_studies, partial / "eyes", config.num_eyes, {"seed": seed}),
        Drawing(phantoms.write_radiographs, partial / "radiographs", config.num_radiographs, {"seed": seed}),
        Drawing(
            phantoms.write_ct_studies,
            partial / "ct" / "unlabeled",
            config.num_unlabeled,
            {"seed": seed + UNLABELED_SEED},
        ),
        Drawing(phantoms.write_oct_studies, partial / "oct", NUM_OCT, {"seed": seed}),
        Drawing(phantoms.write_slide_studies, partial / "new-slides", NEW_SLIDES, {"seed": new_seed}),
        Drawing(phantoms.write_fundus_studies, partial / "new-eyes", NEW_EYES, {"seed": new_seed}),
        Drawing(phantoms.write_radiograph_studies, partial / "new-radiographs", NEW_RADIOGRAPHS, {"seed": new_seed}),
        studies,
    ]
    for outcome in map_items(Drawing.draw, drawings, config=config.engine, title="draw"):
        if outcome.error is not None:
            raise outcome.error
        if outcome.item == studies and outcome.result is not None:
            phantoms.lose_slice(outcome.result[0] / "abdomen")
    return partial.rename(folder)


def unexpected(predictions: Path, num_expected: int) -> list[str]:
    """Return the failures in a folder of predictions if their number is not the expected one."""
    with (predictions / "status.csv").open(encoding="utf-8", newline="") as file:
        failed = [line for line in csv.DictReader(file) if line["status"] != "done"]
    return [f"{line['study']}: {line['reason']}" for line in failed] if len(failed) != num_expected else []
