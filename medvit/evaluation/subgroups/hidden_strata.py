"""Hidden strata: clusters of embeddings as subgroups, for weaknesses that no recorded attribute describes.

Embeddings are standardized, centered within each true class, so that clusters do not repeat the classes (after Sohoni
et al., NeurIPS 2020, who cluster within classes), and reduced to a few principal components. K-means divides them; the
number of clusters is the one with the largest mean silhouette (Rousseeuw, J. Comput. Appl. Math. 1987). A cluster is
named by the attributes that are more frequent in it than elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.attributes import attribute_title
from medvit.evaluation import Evaluation
from medvit.evaluation.subgroups.analysis import MIN_PATIENTS, with_groups
from medvit.evaluation.subgroups.grouping import UNKNOWN, grouped

TITLE = "Hidden strata"
MAX_CLUSTERS = 8
MAX_COMPONENTS = 16
MAX_FOR_SILHOUETTE = 2000
"""Maximum number of images from which the silhouette is computed."""
MIN_EXCESS = 0.2
"""Smallest difference between the share of a value in a cluster and elsewhere by which the cluster is named."""
NUM_NAMED = 2
"""Maximum number of attributes in the name of a cluster."""


def with_hidden_strata(
    evaluation: Evaluation,
    embeddings: Float[Array, "n e"],
    names: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> Evaluation:
    """Add an analysis of the clusters of embeddings (N, E), in the order of the rows of an evaluation.

    `names` are the attributes by which clusters are named. With too few patients for two clusters that are not small,
    the evaluation is returned unchanged.
    """
    labels = clusters(evaluation, embeddings, seed=seed)
    if labels is None:
        return evaluation
    values = {name: grouped(evaluation.rows, name) for name in names}
    groups = {_name(number, labels == number, values): np.flatnonzero(labels == number) for number in np.unique(labels)}
    note = (
        f"{len(groups)} clusters of the embeddings of these images; their number, from 2 to {MAX_CLUSTERS}, is the one "
        "with the largest silhouette. Embeddings are centered within each true class, so that clusters do not repeat "
        "the classes. A cluster is named by attributes that are more frequent in it (first share) than elsewhere "
        "(second share)."
    )
    return with_groups(evaluation, {"cluster": groups}, title=TITLE, note=note, resamples=resamples, seed=seed)


def are_possible(evaluation: Evaluation) -> bool:
    """Return whether an evaluation has enough patients for two clusters that are not small, and a single task."""
    return not evaluation.parts and _most_clusters(evaluation) > 1


def _most_clusters(evaluation: Evaluation) -> int:
    return min(MAX_CLUSTERS, len({row.patient_id for row in evaluation.rows}) // MIN_PATIENTS)


def clusters(evaluation: Evaluation, embeddings: Float[Array, "n e"], *, seed: int) -> Int[Array, "n"] | None:
    """Return the number of the cluster of each image, from 1 for the largest; None with too few patients."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    most = _most_clusters(evaluation)
    if most < 2:
        return None
    points = reduced(embeddings, _classes(evaluation), seed=seed)
    size = min(len(points), MAX_FOR_SILHOUETTE)
    found: dict[float, Int[Array, "n"]] = {}
    for number in range(2, most + 1):
        labels = KMeans(number, n_init=10, random_state=seed).fit_predict(points)
        if len(np.unique(labels)) > 1:
            found[float(silhouette_score(points, labels, sample_size=size, random_state=seed))] = labels
    if not found:
        return None
    labels = found[max(found)]
    order = np.argsort(-np.bincount(labels), kind="stable")
    return np.argsort(order)[labels] + 1


def reduced(embeddings: Float[Array, "n e"], classes: Int[Array, "n"], *, seed: int) -> Float[Array, "n c"]:
    """Return the principal components of embeddings that are standardized and centered within each class."""
    from sklearn.decomposition import PCA

    points = (embeddings - embeddings.mean(axis=0)) / np.maximum(embeddings.std(axis=0), 1e-9)
    for number in np.unique(classes):
        points[classes == number] -= points[classes == number].mean(axis=0)
    count = min(MAX_COMPONENTS, *points.shape)
    return np.asarray(PCA(count, random_state=seed).fit_transform(points))


def _classes(evaluation: Evaluation) -> Int[Array, "n"]:
    """Return the true class of each image; 0 for tasks in which an image does not have one class."""
    if evaluation.kind == "classification":
        return evaluation.truth
    return np.zeros(len(evaluation.rows), dtype=int)


def _name(number: int, is_inside: Array, values: Mapping[str, Mapping[str, Int[Array, "m"]]]) -> str:
    """Return the number of a cluster with the attributes that are most over-represented in it."""
    excess = []
    for attribute, groups in values.items():
        for value, those in groups.items():
            share, elsewhere = is_inside[those].sum() / is_inside.sum(), (~is_inside)[those].sum() / (~is_inside).sum()
            if value != UNKNOWN and share - elsewhere >= MIN_EXCESS:
                text = f"{attribute_title(attribute)} {value} ({share:.0%}, {elsewhere:.0%})"
                excess.append((share - elsewhere, text))
    shown = [text for _, text in sorted(excess, reverse=True)[:NUM_NAMED]]
    return f"{number}, {' and '.join(shown) or 'no attribute stands out'}"
