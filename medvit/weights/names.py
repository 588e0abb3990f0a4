"""Names of public weights, from which the method that trained them is read."""

from __future__ import annotations

import re

OBJECTIVES = (
    (r"simdino", "simdinov2"),
    (r"dino_?v[23]|rad_?dino|phikon|virchow", "dinov2"),
    (r"dino", "dino"),
)
"""Pattern of a name -> objective that trained the weights, of the DINO family only; the first match counts.

The RETFound variant trained by DINOv2 has `dinov2` in its name. Phikon was trained by iBOT, DINOv2's patch loss.
"""


def objective_of(weights: str) -> str | None:
    """Return the objective of the DINO family that trained public weights, by their name; None for other names.

    >>> objective_of("hub:vit_base_patch14_reg4_dinov2.lvd142m"), objective_of("weights/rad-dino.safetensors")
    ('dinov2', 'dinov2')
    >>> objective_of("hub:vit_small_patch16_224.dino"), objective_of("mae_pretrain_vit_large.pth")
    ('dino', None)
    """
    name = weights.replace("\\", "/").rpartition("/")[2].lower().replace("-", "_")
    return next((objective for pattern, objective in OBJECTIVES if re.search(pattern, name)), None)
