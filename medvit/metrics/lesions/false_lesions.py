"""False-positive lesions per case: predicted lesions that overlap no true one; 0 or more, lower is better.

It applies to segmentation, per image and class, over connected components. Images without the class in both masks have
0 and count in the mean (as in free-response ROC; Chakraborty and Winter, Radiology 1990).
"""

from __future__ import annotations

from medvit.metrics import MaskMetric

METRIC = MaskMetric(
    name="false_lesions",
    title="False-positive lesions per case",
    meaning="False-positive lesions per case: the number of predicted lesions without a voxel of a true one, as the "
    "mean over all images.",
    higher_is_better=False,
    compute=lambda masks: float(masks.lesions.false),
    place=62,
)
