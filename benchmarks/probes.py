"""Probes of frozen features: nearest neighbors and a linear probe, fitted only on training images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray as Array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from medvit.artifacts import Checkpoint
from medvit.backbones import Backbone
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import Samples
from medvit.evaluation.bootstrap import bootstrap
from medvit.evaluation.classification import classification_metrics
from medvit.records import Split
from medvit.stage import seed_everything
from medvit.training.guard.probe_metrics import knn_vote
from medvit.training.initialization import backbone_of
from medvit.transforms.preprocess import Preprocess, resize

NUM_NEIGHBORS = 20
PENALTIES = tuple(10.0**power for power in range(-4, 2))
"""Penalties of the linear probe (scikit-learn's C), chosen on the validation images."""
SPLITS: tuple[Split, ...] = ("train", "val", "test")
METRICS = ("auroc", "balanced_accuracy")
ASKED: Mapping[str, Split] = {"knn": "test", "linear": "test", "knn_val": "val"}
"""Probes, and the splits they are evaluated on. Neighbors have nothing to tune, so validation images serve as held-out
images for them, too: they come from the same source as the training images, unlike some official test sets.
"""
Answers = Mapping[str, Float[Array, "n l"]]
"""Probe -> probabilities of the evaluated images."""


@dataclass(frozen=True)
class Labeled:
    """Images of one data set, preprocessed, by split."""

    name: str
    classes: tuple[str, ...]
    pixels: Mapping[str, Float[torch.Tensor, "n c h w"]]
    labels: Mapping[str, Int[Array, "n"]]
    patients: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, union: Manifest, name: str, preprocess: Preprocess, size: tuple[int, ...]) -> Labeled:
        """Return the images of one data set of a merged dataset, uncropped and resized to the training size."""
        key = f"{name}.label"
        own = union.filter(lambda row: row.dataset == name and key in row.labels)
        classes = union.facts.classes[key]
        parts = {split: Samples(own.split(split), preprocess, label=key, classes=classes) for split in SPLITS}
        return cls(
            name,
            classes,
            {
                split: torch.stack([resize(part[n].pixels, size) for n in range(len(part))])
                for split, part in parts.items()
            },
            {split: np.array(part.class_indices) for split, part in parts.items()},
            {split: tuple(row.patient_id for row in part.manifest) for split, part in parts.items()},
        )

    def answers(self, backbone: Backbone) -> Answers:
        """Return class probabilities from nearest neighbors and from a linear probe on the features of a backbone."""
        known, chosen, asked = (features(backbone, self.pixels[split]) for split in SPLITS)
        labels = self.labels["train"]
        return {
            "knn": _neighbors(known, labels, asked),
            "linear": _linear(known.numpy(), labels, chosen.numpy(), self.labels["val"], asked.numpy()),
            "knn_val": _neighbors(known, labels, chosen),
        }


@torch.no_grad()
def features(backbone: Backbone, pixels: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n d"]:
    """Return the class token and the mean of the patches, concatenated, each of unit length, in float32."""
    backbone.eval()
    parts = []
    for some in pixels.split(64):
        tokens = backbone(some)
        two = (tokens.prefix[:, 0], tokens.patches.mean(dim=1))
        parts.append(torch.cat([F.normalize(part.float(), dim=-1) for part in two], dim=-1))
    return torch.cat(parts)


def start_weights(like: Path, seed: int) -> Backbone:
    """Return random initial weights, as a pretraining with this seed has, for the architecture of checkpoint `like`."""
    described, _ = backbone_of(Checkpoint.load(like))
    seed_everything(seed)
    return described.build()


def compared(
    labeled: Labeled, answers: Mapping[str, Sequence[Answers]], *, baseline: str, resamples: int
) -> dict[str, dict[str, dict[str, object]]]:
    """Return the mean over seeds and its gain over the baseline, with 95 % intervals, by probe, metric and method.

    The intervals are from a bootstrap over patients, whose resamples are the same for all methods and seeds. The values
    of single seeds are listed in addition.
    """
    found: dict[str, dict[str, dict[str, object]]] = {}
    for probe, split in ASKED.items():
        truth = labeled.labels[split]
        chosen = {name: [one[probe] for one in seeds] for name, seeds in answers.items()}
        estimates = bootstrap(
            _means(truth, chosen, labeled.classes, baseline), labeled.patients[split], resamples=resamples, seed=0
        )
        found[probe] = {
            metric: {
                name: {
                    "mean": estimates[f"{metric}/{name}"].__dict__,
                    "gain": estimates[f"{metric}/{name}/gain"].__dict__,
                    "seeds": [classification_metrics(truth, one, labeled.classes)[metric] for one in seeds],
                }
                for name, seeds in chosen.items()
            }
            for metric in METRICS
        }
    return found


def _means(
    truth: Int[Array, "n"], answers: Mapping[str, Sequence[Array]], classes: Sequence[str], baseline: str
) -> Callable[[Int[Array, "m"]], dict[str, float]]:
    def statistic(drawn: Int[Array, "m"]) -> dict[str, float]:
        metrics = {
            name: [classification_metrics(truth[drawn], one[drawn], classes) for one in seeds]
            for name, seeds in answers.items()
        }
        means = {
            f"{metric}/{name}": float(np.mean([one[metric] for one in seeds]))
            for metric in METRICS
            for name, seeds in metrics.items()
        }
        gains = {f"{key}/gain": value - means[f"{key.split('/')[0]}/{baseline}"] for key, value in means.items()}
        return means | gains

    return statistic


def _neighbors(known: torch.Tensor, labels: Array, asked: torch.Tensor) -> Float[Array, "n l"]:
    votes = knn_vote(known, torch.from_numpy(labels), asked, NUM_NEIGHBORS).numpy()
    return np.asarray(votes / votes.sum(axis=1, keepdims=True))


def _linear(known: Array, labels: Array, chosen: Array, chosen_labels: Array, asked: Array) -> Float[Array, "n l"]:
    """Return probabilities of a class-balanced logistic regression whose penalty has the least validation loss."""
    scaler = StandardScaler().fit(known)
    weights = 1.0 / np.bincount(chosen_labels)[chosen_labels]

    def fitted(penalty: float) -> tuple[float, LogisticRegression]:
        model = LogisticRegression(C=penalty, class_weight="balanced", max_iter=1000)
        model.fit(scaler.transform(known), labels)
        probabilities = model.predict_proba(scaler.transform(chosen))
        return log_loss(chosen_labels, probabilities, sample_weight=weights, labels=model.classes_), model

    best = min((fitted(penalty) for penalty in PENALTIES), key=lambda pair: pair[0])[1]
    return np.asarray(best.predict_proba(scaler.transform(asked)))
