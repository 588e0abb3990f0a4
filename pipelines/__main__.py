"""Command line of `medvit`: it finds the stage, reads its config, and reports errors in one sentence.

Exit status: 0 success, 1 the stage failed, 2 the config or the arguments are wrong, 3 the stage finished but a check
failed, some items failed or no input was suitable, 130 interrupted. Nothing heavy is imported before a stage is known,
so help is immediate.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines._output import outliving_readers

if TYPE_CHECKING:
    from medvit.stage import Stage

FAILED, WRONG_ARGUMENTS, SOME_ITEMS_FAILED, INTERRUPTED = 1, 2, 3, 130
SHOWN_FAILURES = 10
OPTIONS = ("--help", "--debug", "--version")
RENAMED = {"unite": "merge"}
"""Earlier name of a stage -> its present name."""


@dataclass(frozen=True)
class Entry:
    """Entry of a stage in the list of stages.

    A test checks that `summary` equals the docstring of the stage function.
    """

    summary: str
    example: str
    outcome: str = "failed"
    """Words after the number of failures in the message of exit status 3, such as `failed`."""
    prints_them: bool = False
    """Whether the stage prints its failure lines itself."""
    before: str = ""
    """Words before `[CONFIG.yaml]` in the usage line of the help."""
    first: tuple[str, ...] = ()
    """Most important options, which help shows first."""
    room: str = "pipelines"
    """Package that contains the module of the stage."""


STAGES = {
    "init": Entry(
        "Survey a folder without reading pixels, print its contents, and write configuration files for it.",
        "medvit init source=hospital-export output=project",
        "findings need attention",
        first=("output", "modality", "label_from", "labels", "device"),
    ),
    "ingest": Entry(
        "Make a dataset from a folder of images: DICOM, NIfTI, MHA, NRRD, PNG, JPEG, TIFF, npz or whole slides.",
        "medvit ingest source=hospital-export dataset=runs/dataset",
        "failed or lack what was requested",
        first=(
            "name",
            "labeling.from_folders",
            "labeling.table",
            "labeling.by",
            "labeling.mask_classes",
            "scanning.modality",
            "scanning.geometry.irregular",
            "splits.test",
            "deidentify.copy_to",
            "update",
            "engine.num_processes",
        ),
    ),
    "merge": Entry(
        "Merge several datasets and keep their splits. An image in several splits is kept in only one.",
        "medvit merge datasets=[runs/ct,runs/mr] output=runs/both",
        room="pipelines.datasets",
    ),
    "pretrain": Entry(
        "Pretrain a backbone on your own images, from a checkpoint, public weights or random weights.",
        "medvit pretrain dataset=runs/dataset output=runs/backbone",
        "rollback",
        first=(
            "checkpoint",
            "objective.name",
            "backbone.size",
            "backbone.weights",
            "preprocess.size",
            "optim.lr",
            "loader.batch_size",
            "trainer.epochs",
            "trainer.steps_per_epoch",
            "guard.action",
        ),
    ),
    "finetune": Entry(
        "Fine-tune a backbone for a task on your labels.",
        "medvit finetune dataset=runs/dataset checkpoint=runs/backbone output=runs/model",
        first=(
            "checkpoint",
            "label",
            "peft.name",
            "head.name",
            "crop",
            "optim.lr",
            "loader.batch_size",
            "trainer.epochs",
            "trainer.steps_per_epoch",
        ),
    ),
    "curve": Entry(
        "Measure how scores rise with the number of labels, with and without pretraining, and plot the curve.",
        "medvit curve dataset=runs/dataset finetune=finetune.yaml pretrain=pretrain.yaml output=runs/curve",
        "runs failed",
        first=("finetune", "pretrain", "pretrained", "arms", "ways", "labeled", "draws", "rates", "lengths", "split"),
        room="pipelines.results",
    ),
    "evaluate": Entry(
        "Evaluate a model on a split it was not trained on, and write a report with confidence intervals.",
        "medvit evaluate checkpoint=runs/model dataset=runs/dataset output=runs/report",
        "failed or did not meet a criterion",
        first=(
            "split",
            "against",
            "criteria",
            "positive",
            "seen_patients",
        ),
    ),
    "robustness": Entry(
        "Measure how the error of a model rises on corrupted images, by corruption and severity, with intervals.",
        "medvit robustness checkpoint=runs/model dataset=runs/dataset output=runs/robustness",
        first=("reference", "corruptions", "severities", "split", "max_images"),
        room="pipelines.results",
    ),
    "explain": Entry(
        "Draw maps of the parts of images or slides that predictions depend on, with checks of the maps.",
        "medvit explain checkpoint=runs/model dataset=runs/dataset output=runs/maps",
        "could not be explained",
        first=("source", "method", "target", "split", "images", "max_images"),
        room="pipelines.results",
    ),
    "predict": Entry(
        "Run a model on a folder of studies and write results that a clinician can open.",
        "medvit predict checkpoint=runs/model source=new-studies output=runs/predictions",
        "failed, lack a result or did not fit",
        first=(
            "key",
            "series",
            "outputs",
            "applies_to.description",
            "codes",
            "device",
        ),
    ),
    "send": Entry(
        "Send results to an archive, after a check of the patient, and confirm that the archive has them.",
        "medvit send predictions=runs/predictions to=https://pacs.hospital.org/dicom-web output=runs/sent",
        "were not delivered",
        first=("only_check", "archive.auth.token_env", "archive.tls.ca", "archive.pacs.aet"),
        room="pipelines.results",
    ),
    "serve": Entry(
        "Receive studies from a PACS, predict each when it is complete, and send results back if asked to.",
        "medvit serve checkpoint=runs/model folder=/srv/medvit receive.port=11112",
        first=("checkpoint", "folder", "receive.listen", "receive.callers", "receive.hosts", "send", "web.port"),
        room="pipelines.results",
    ),
    "baseline": Entry(
        "Train simple baselines, such as the class frequencies or age, sex and scanner, to compare a model with.",
        "medvit baseline checkpoint=runs/model dataset=runs/dataset output=runs/baselines",
        first=("checkpoint", "label", "kinds", "attributes"),
        room="pipelines.results",
    ),
    "embed": Entry(
        "Compute the embedding of every image of a dataset with a backbone, and write them as a table.",
        "medvit embed checkpoint=runs/backbone dataset=runs/dataset output=runs/embeddings",
        first=("splits", "features", "device"),
        room="pipelines.results",
    ),
    "calibrate": Entry(
        "Calibrate the predicted probabilities of a model on images that were used for nothing else.",
        "medvit calibrate checkpoint=runs/model dataset=runs/dataset output=runs/calibrated",
        room="pipelines.results",
    ),
    "conformal": Entry(
        "Add prediction sets or intervals to a model by conformal prediction, from images used for nothing else.",
        "medvit conformal checkpoint=runs/model dataset=runs/dataset output=runs/with-sets",
        first=("coverage", "method"),
        room="pipelines.results",
    ),
    "compare": Entry(
        "Compare several reports on one page: metrics side by side, and differences from the first one.",
        "medvit compare reports=[runs/report-a,runs/report-b] output=runs/comparison",
        room="pipelines.results",
    ),
    "probe": Entry(
        "Compare frozen backbones on a label of a dataset by nearest neighbors, linear models and layers.",
        "medvit probe checkpoints=[runs/a,runs/b] dataset=runs/dataset output=runs/probe",
        first=("label", "probes", "layers", "features"),
        room="pipelines.results",
    ),
    "search": Entry(
        "Find the most similar images of embedded datasets, such as the training images most like a new one.",
        "medvit search embeddings=runs/embeddings image=i-0123456789abcdef",
        first=("image", "queries", "number", "where"),
        room="pipelines.results",
    ),
    "drift": Entry(
        "Compare two sets of images by embeddings, attributes and scores, and report whether they differ.",
        "medvit drift a=runs/embeddings-may b=runs/embeddings-june",
        "variables differ",
        room="pipelines.results",
    ),
    "doctor": Entry(
        "Check the installation: packages, device, decoders, disk, site key, MLflow and, if given, an archive.",
        "medvit doctor archive=pacs://ARCHIVE@10.0.0.5:104",
        "do not work",
        prints_them=True,
        first=("folder", "archive", "backup"),
        room="pipelines.results",
    ),
    "register": Entry(
        "Register a model in MLflow from a report whose criteria it met, so that all stages find it by name.",
        "medvit register checkpoint=runs/model report=runs/report name=pneumonia alias=champion",
        first=("checkpoint", "report", "name", "alias", "allow"),
        room="pipelines.results",
    ),
    "models": Entry(
        "List the checkpoints in a folder: task, classes, size, scores, and which share a backbone.",
        "medvit models runs",
        "could not be read",
        before="[FOLDER] ",
        room="pipelines.results",
    ),
    "lineage": Entry(
        "Trace an artifact back to its data, code and weights and forward to its uses, or list what saw a patient.",
        "medvit lineage path=runs/predictions runs=runs html=lineage.html",
        "inputs were not found or changed",
        first=("path", "patient", "runs", "html"),
        room="pipelines.results",
    ),
    "export": Entry(
        "Write a dataset as files for other tools: volumes as NIfTI, images as PNG, each with a JSON file.",
        "medvit export dataset=runs/dataset output=runs/files",
        room="pipelines.datasets",
    ),
    "audit": Entry(
        "Search a dataset, its de-identified copy and MLflow for anything that identifies a patient.",
        "medvit audit dataset=runs/dataset source=hospital-export",
        "places identify patients or could not be searched",
        prints_them=True,
        room="pipelines.datasets",
    ),
    "leakage": Entry(
        "Find patients, studies and images shared by the splits of a dataset, or by two datasets.",
        "medvit leakage a=runs/dataset b=runs/other-dataset output=runs/leakage",
        "leaks were found",
        room="pipelines.datasets",
    ),
    "reproduce": Entry(
        "Check the inputs, options and code of a run, then print its command, or repeat it and compare the results.",
        "medvit reproduce run=runs/model runs=runs repeat=true",
        "differences were found",
        prints_them=True,
        first=("run", "runs", "repeat", "output", "options"),
        room="pipelines.results",
    ),
    "forget": Entry(
        "List what contains data of a patient, or remove it; weights are named and never edited.",
        "medvit forget patient=p-0123456789ab runs=runs apply=true",
        "places must be changed by hand",
        prints_them=True,
        first=("patient", "runs", "key", "apply"),
        room="pipelines.datasets",
    ),
    "card": Entry(
        "Compare two datasets, or write a new card of one dataset or of one model.",
        "medvit card a=runs/dataset b=runs/other-dataset output=runs/comparison",
        room="pipelines.datasets",
    ),
    "plan": Entry(
        "Estimate time, memory and disk space of pretraining or fine-tuning from a few measured steps.",
        "medvit plan pretrain dataset=runs/dataset backbone.size=base",
        before="pretrain|finetune ",
    ),
    "sync": Entry(
        "Send to MLflow the records that were stored locally while it was unreachable.",
        "medvit sync runs=runs",
        "runs could not be sent",
    ),
    "whois": Entry(
        "Print the original identifier of a pseudonym. Requires the key file that it was computed with.",
        "medvit whois s-0123456789ab key=~/.medvit/site.key",
        before="PSEUDONYM ",
        room="pipelines.datasets",
    ),
    "demo": Entry(
        "Run ingest, pretrain, finetune, evaluate and predict on synthetic radiology, pathology and eye images.",
        "medvit demo output=runs/demo",
    ),
}


@dataclass(frozen=True)
class Command:
    """Command line, separated into options (arguments that begin with a hyphen) and the other words."""

    words: tuple[str, ...]
    options: frozenset[str]

    @classmethod
    def of(cls, arguments: Sequence[str]) -> Command:
        """Return the command that a list of arguments describes; `-h` is short for `--help`."""
        named = ["--help" if argument == "-h" else argument for argument in arguments]
        return cls(
            tuple(argument for argument in named if not argument.startswith("-")),
            frozenset(argument for argument in named if argument.startswith("-")),
        )


EXIT_STATUS = """exit status:
  0    success
  1    the stage failed
  2    the configuration or the arguments are wrong
  3    the stage finished, but a check failed, some items failed, or no input was suitable
  130  interrupted; run the same command with resume=true to continue"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status, which a closed output pipe does not change."""
    with outliving_readers():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    command = Command.of(sys.argv[1:] if arguments is None else arguments)
    given = command.words[0] if command.words else ""
    name = RENAMED.get(given, given)
    if name != given:
        print(f"medvit {given} is now called medvit {name}; the next version refuses the old name", file=sys.stderr)
    if "--version" in command.options:
        from medvit import __version__

        print(f"medvit {__version__}")
        return 0
    if not name:
        print(overview())
        return 0 if "--help" in command.options else WRONG_ARGUMENTS
    problem = _misspelt(name, command)
    if problem:
        print(f"medvit: {problem}", file=sys.stderr)
        return WRONG_ARGUMENTS
    if "--help" in command.options:
        print(help_of(name, command.words[1:]))
        return 0
    return run(name, command.words[1:], debug="--debug" in command.options)


def run(name: str, words: Sequence[str], *, debug: bool = False) -> int:
    """Run the stage `name` with the words that follow its name; return the exit status.

    With `debug`, errors include their traceback.
    """
    from medvit.errors import ConfigError, MedvitError, unexpected
    from medvit.logs import log_to_terminal, quiet_libraries
    from pipelines._help import misspelt

    problem = misspelt(_with_options(name, words), words)
    if problem:
        return _exit(name, problem, WRONG_ARGUMENTS, debug=False)

    log_to_terminal()
    logging.getLogger("medvit").setLevel(logging.DEBUG if debug else logging.NOTSET)
    quiet_libraries("alembic", "numexpr")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # treat a scheduler's termination signal as an interrupt
    try:
        stage: Any = find(name)
        if hasattr(stage, "about"):  # its first word is not a key
            stage, words = stage.about(words)
        quiet_libraries("lightning.pytorch", "lightning.fabric")  # set their own level when they are imported
        config = stage.config_type.load(*_config_and_keys(words))
        failures = stage.run(config).failures
    except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns an interrupt into an exit
        if isinstance(error, SystemExit) and error.code == 0:
            return 0  # another rank whose part is done
        return _exit(name, "interrupted; the same command with resume=true continues", INTERRUPTED, debug)
    except ConfigError as error:
        return _exit(name, str(error), WRONG_ARGUMENTS, debug)
    except MedvitError as error:
        return _exit(name, str(error), FAILED, debug)
    except Exception as error:  # last resort: any other error becomes one sentence
        return _exit(name, f"{unexpected(error)}; use --debug for the traceback", FAILED, debug)
    if not failures:
        return 0
    finished = f"finished, but {len(failures)} {STAGES[name].outcome}"
    if STAGES[name].prints_them:
        return _exit(name, finished, SOME_ITEMS_FAILED, debug=False)
    rest = len(failures) - SHOWN_FAILURES
    lines = [*failures[:SHOWN_FAILURES], *([f"and {rest} more"] if rest > 0 else [])]
    return _exit(name, "\n  ".join([f"{finished}:", *lines]), SOME_ITEMS_FAILED, debug=False)


def find(name: str) -> Stage[Any, Any]:
    """Return the stage with a name from `STAGES`."""
    import importlib

    stage: Stage[Any, Any] = getattr(importlib.import_module(f"{STAGES[name].room}.{name}"), name)
    return stage


def overview() -> str:
    """Return the list of stages that `medvit --help` shows."""
    width = max(map(len, STAGES))
    stages = "\n".join(f"  {name:<{width}}  {entry.summary}" for name, entry in STAGES.items())
    return (
        "usage: medvit STAGE [CONFIG.yaml] key=value ... [--debug]\n\n"
        f"stages:\n{stages}\n\n"
        f"{EXIT_STATUS}\n\n"
        "medvit STAGE --help lists every option with its type, default and meaning.\n"
        "medvit --version prints the version.\n"
        "Errors are reported in one sentence. --debug adds the traceback.\n"
        "For research use only. Not a medical device."
    )


def help_of(name: str, words: Sequence[str] = ()) -> str:
    """Return the help of a stage: its options in sections, with their types, defaults and meanings, and an example.

    The `words` of the command line choose which variants of options are shown.
    """
    from pipelines._help import page

    entry = STAGES[name]
    head = (f"usage: medvit {name} {entry.before}[CONFIG.yaml] key=value ... [--debug]", "", entry.summary)
    known = _with_options(name, words)
    shown = page(known, words, first=STAGES[known.split()[-1]].first, head=head)
    return "\n".join([shown, "", "example:", f"  {entry.example}"])


def _with_options(name: str, words: Sequence[str]) -> str:
    """Return the name under which the options of a stage are listed.

    It is the name of the stage, or for `plan` a name such as `plan pretrain`.
    """
    if name != "plan":
        return name
    return "plan finetune" if words[:1] and words[0] == "finetune" else "plan pretrain"


def _misspelt(name: str, command: Command) -> str:
    from medvit.config import unknown_name

    if name not in STAGES:
        return unknown_name("stage", name, list(STAGES))
    for option in sorted(command.options.difference(OPTIONS)):
        key = option.lstrip("-")
        if "=" in key:
            return f"unknown option {option}; keys are given without dashes, as {key}"
        return f"unknown option {option}; known are {', '.join(OPTIONS)}, and keys are given as key=value"
    return ""


def _config_and_keys(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    from medvit.errors import ConfigError

    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise ConfigError(
            f"{len(files)} arguments are not key=value ({', '.join(files)}); expected at most one CONFIG.yaml"
        )
    return (Path(files[0]) if files else None), [word for word in words if "=" in word]


def _exit(name: str, sentence: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"medvit {name}: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
