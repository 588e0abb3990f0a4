"""Simple baseline: logistic regression on the pixels of small images, without any network."""

from __future__ import annotations

import numpy as np

from medvit.baselines.pixels import reduced_pixels
from medvit.curves.scores import ClassScores, patient_indices
from medvit.dataset.manifest import Manifest


def regression_on_pixels(labeled: Manifest, scored: Manifest, label: str, *, strength: float) -> ClassScores:
    """Return the probabilities of images by a logistic regression on pixels, trained on labeled images.

    Images are reduced to at most 28 pixels or 14 voxels a side, and each is centered and divided by its norm.
    Named channels are in the order of their names; those that an image lacks are zero.
    `strength` is the inverse strength of the L2 penalty, `C` of scikit-learn.
    """
    from sklearn.linear_model import LogisticRegression

    classes = labeled.facts.classes[label]
    truth = np.array([classes.index(row.labels[label]) for row in labeled])
    names = sorted({name for row in labeled for name in row.channels})
    features, others = reduced_pixels(labeled, names), reduced_pixels(scored, names)
    scale = features.std() or 1.0
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000).fit(features / scale, truth)
    probabilities = np.zeros((len(others), len(classes)))
    probabilities[:, model.classes_] = model.predict_proba(others / scale)
    found = np.array([classes.index(row.labels[label]) for row in scored])
    return ClassScores(found, probabilities, patient_indices(scored.rows))
