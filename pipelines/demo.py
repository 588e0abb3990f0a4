"""Demo of every stage on phantoms (synthetic images): 3D volumes, 2D images, whole slides, and images of the eye."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from medvit import phantoms
from medvit.artifacts import Report
from medvit.config import Tree
from medvit.engine import EngineConfig, map_items
from medvit.files.atomic import write_text
from medvit.stage import Run, Stage, StageConfig, stage
from medvit.tracking import TrackingConfig
from pipelines._demo_summary import NSD_TOLERANCE_MM, NewStudies, first_look, summary
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from pipelines.ingest import ingest
from pipelines.predict import predict
from pipelines.pretrain import pretrain

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
class DemoStages:
    """Runner of stages in one folder; it skips stages that an interrupted demo has finished."""

    config: DemoConfig

    def epochs_of(self, steps: int) -> Tree:
        """Return trainer options for epochs of `steps` steps."""
        return {"epochs": self.config.epochs, "steps_per_epoch": steps}

    @property
    def root(self) -> Path:
        """Folder of the whole demo."""
        return self.config.output.absolute()

    def run(self, what: Stage[Any, Any], name: str, **options: Any) -> Path:
        """Run a stage with `options` as on the command line, and return its artifact, the folder `name`.

        A stage that an interrupted demo has finished is not repeated.
        """
        shared = {"seed": self.config.seed, "resume": self.config.resume, "tracking": self.config.tracking.tree()}
        if what.name == "ingest":
            shared["engine"] = self.config.engine.tree()
        if "key" in what.config_type.model_fields:
            shared["key"] = self.root / "site.key"
        folder = self.root / name
        config = what.config_type.parse({what.config_type.OUTPUT: folder, **shared, **options}, source=what.name)
        if not (self.config.resume and folder.is_dir()):
            log.info("demo: medvit %s -> %s", what.name, folder)
            what.run(config)
        return folder


@stage
def demo(config: DemoConfig, run: Run) -> Report:
    """Run ingest, pretrain, finetune, evaluate and predict on synthetic radiology, pathology and eye images."""
    job = DemoStages(config)
    drawn = draw_phantoms(job.root / "phantoms", config)

    organs(job, drawn)
    opacities(job, drawn)
    tumors(job, drawn)
    grades(job, drawn)
    job.run(ingest, "oct", source=drawn / "oct", labeling=FROM_FOLDERS, facts=CARD)

    expected = {"ct-predictions": 1, "radiograph-predictions": 0, "slide-predictions": 0, "eye-predictions": 0}
    run.failures += [line for name, count in expected.items() for line in unexpected(job.root / name, count)]
    studies = NewStudies(NEW_STUDIES, config.seed + NEW_SEED)
    looks = first_look(job.root, studies, config.tracking)
    run.failures += [f"{one.path} should be shown but does not exist" for one in looks if not one.path.exists()]
    text = summary(job.root, studies, looks)
    write_text(run.folder / SUMMARY, text)
    run.keep(SUMMARY)
    print(text)
    return Report(run.folder, {})


def organs(job: DemoStages, drawn: Path) -> None:
    """Segment organs in CT, in 3D."""
    organs = {"mask_classes": phantoms.CT_CLASSES}
    volumes = job.run(ingest, "ct", source=drawn / "ct", scanning={"modality": "CT"}, labeling=organs, facts=CARD)
    backbone = job.run(
        pretrain,
        "ct-backbone",
        dataset=volumes,
        **VOLUMES,
        objective={**DECODER, "views": {"size": [48, 48, 32]}},
        trainer=job.epochs_of(40),
    )
    model = job.run(
        finetune,
        "ct-model",
        dataset=volumes,
        checkpoint=backbone,
        peft="lora",
        optim={"lr": 2e-3},
        loader={"batch_size": 2},
        trainer=job.epochs_of(75),
    )
    job.run(
        evaluate, "ct-report", resamples=RESAMPLES, checkpoint=model, dataset=volumes, nsd_tolerance_mm=NSD_TOLERANCE_MM
    )
    job.run(predict, "ct-predictions", checkpoint=model, source=drawn / "new-studies")


def opacities(job: DemoStages, drawn: Path) -> None:
    """Classify radiographs with and without an opacity, in 2D."""
    how = {"scanning": {"modality": "DX"}, "labeling": {**FROM_FOLDERS, "positive": "opacity"}}
    images = job.run(ingest, "radiographs", source=drawn / "radiographs", **how, facts=CARD)
    model = classifier(job, "radiograph", images, IMAGES, num_steps=(32, 60))
    job.run(evaluate, "radiograph-report", resamples=RESAMPLES, checkpoint=model, dataset=images)
    job.run(predict, "radiograph-predictions", checkpoint=model, source=drawn / "new-radiographs")


def tumors(job: DemoStages, drawn: Path) -> None:
    """Classify whole slides with and without tumor: pretrain a backbone on tiles, train heads on their embeddings."""
    slides = {"key": job.root / "site.key", "skip_tiles": ["pen"]}
    shared = {"scanning": {"patient_from": SLIDE_PATIENT}, "splits": SPLITS, "taking": {"tiles": TILES}}
    shared |= {"labeling": {**FROM_FOLDERS, "positive": "tumor"}}
    tiles = job.run(ingest, "slides", source=drawn / "slides", **shared, facts=CARD)
    backbone = job.run(
        pretrain,
        "slide-backbone",
        dataset=tiles,
        **STAINED,
        slides=slides,
        objective={**DECODER, "views": {"size": [128, 128], "augment": {"flipped_axes": [0, 1]}}},
        optim={"lr": 1e-3},
        loader={"batch_size": 16},
        trainer=job.epochs_of(40),
    )
    model = job.run(
        finetune,
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
    job.run(evaluate, "slide-report", resamples=RESAMPLES, checkpoint=model, dataset=tiles, slides=slides)
    job.run(predict, "slide-predictions", checkpoint=model, source=drawn / "new-slides")


def grades(job: DemoStages, drawn: Path) -> None:
    """Grade photographs of the retina; the worse eye determines the grade of a patient."""
    photographs = job.run(ingest, "eyes", source=drawn / "eyes", labeling=FROM_FOLDERS, splits=SPLITS, facts=CARD)
    model = classifier(job, "eye", photographs, RETINAS, num_steps=(30, 75))
    job.run(
        evaluate,
        "eye-report",
        resamples=RESAMPLES,
        checkpoint=model,
        dataset=photographs,
        order=phantoms.FUNDUS_CLASSES,
    )
    job.run(predict, "eye-predictions", checkpoint=model, source=drawn / "new-eyes")


def classifier(job: DemoStages, name: str, images: Path, options: Tree, *, num_steps: tuple[int, int]) -> Path:
    """Pretrain a backbone on images, fine-tune all its weights, and return the folder of the model.

    `num_steps` are the steps per epoch of pretraining and of fine-tuning.
    """
    backbone = job.run(
        pretrain,
        f"{name}-backbone",
        dataset=images,
        **options,
        objective=DECODER,
        optim={"lr": 1e-3},
        loader={"batch_size": 32},
        trainer=job.epochs_of(num_steps[0]),
    )
    return job.run(
        finetune,
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
