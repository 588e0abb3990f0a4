"""Text that people write for a model card, in a YAML file."""

from __future__ import annotations

from pathlib import Path

from medvit.config import Config, read_yaml

NOT_STATED = "not stated"


class ModelProse(Config):
    """Statements about a model that no program knows. The card shows an empty one as `not stated`."""

    developers: str = ""
    """People or organization that made the model."""
    version: str = ""
    """Version of the model."""
    license: str = ""
    """License of the weights."""
    citation: str = ""
    """Publication or address that describes the model."""
    contact: str = ""
    """Where to send questions about the model."""
    intended_use: str = ""
    """Use that the model was made for."""
    users: str = ""
    """Intended users and the expertise that they need."""
    out_of_scope: str = ""
    """Uses that the model was not made for."""
    factors: str = ""
    """Groups of people, instruments and environments that matter for the model."""
    evaluation_data: str = ""
    """Reason for the choice of the evaluation data."""
    training_data: str = ""
    """Information on the training data that their data card lacks."""
    ethical_considerations: str = ""
    """Sensitive data, risks and harms, and what was done about them."""
    caveats: str = ""
    """What was not tested, who is absent from the data, and recommendations."""


def read_model_prose(path: Path | None) -> ModelProse:
    """Return the statements in a YAML file; without a path, none.

    Raises:
        ConfigError: If the file cannot be read, or has other keys than those of `ModelProse`.
    """
    return ModelProse() if path is None else ModelProse.parse(read_yaml(path), source=str(path))
