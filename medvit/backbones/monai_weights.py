"""Loading of weights with the names of MONAI into the encoder of a network."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from medvit.backbones.feature_pyramid import load_named, require_local_file
from medvit.weights import Fit, read_weights

PREFIX = re.compile(r"^(module\.)?(swinViT\.)?")
"""Prefixes of names: of `DataParallel`, as in the weights of MedicalNet, and of the encoder in SwinUNETR."""
LAYERS_OF_MLP = {".mlp.fc1.": ".mlp.linear1.", ".mlp.fc2.": ".mlp.linear2."}
"""Names in the self-supervised weights of SwinUNETR -> names in the network."""
COMPUTED = re.compile(r"(relative_position_index|num_batches_tracked)$")
"""Buffers that do not affect the features, or that the network computes."""


def load_monai(encoder: nn.Module, path: str, *, name: str, first_layers: Sequence[str], advice: str) -> Fit:
    """Load the weights of the encoder from a file of the encoder or of the whole network.

    Weights of modules that the encoder does not have, such as those of a decoder, are ignored and reported.

    Raises:
        CheckpointError: If the file does not exist, or does not have exactly the weights of the encoder.
    """
    require_local_file(path, name, "MONAI")
    state = {_renamed(key): weight for key, weight in read_weights(path).items()}
    own_modules = {key.split(".")[0] for key in encoder.state_dict()}
    return load_named(
        encoder,
        state,
        source=path,
        first_layers=first_layers,
        is_ignored=lambda key: key.split(".")[0] not in own_modules,
        is_optional=lambda key: COMPUTED.search(key) is not None,
        advice=advice,
    )


def _renamed(name: str) -> str:
    name = PREFIX.sub("", name)
    for theirs, ours in LAYERS_OF_MLP.items():
        name = name.replace(theirs, ours)
    return name
