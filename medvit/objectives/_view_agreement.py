"""Base of objectives in which the projected views of an image agree, without a teacher (LeJEPA, SwAV)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from medvit.backbones import Backbone
from medvit.objectives import Objective, ObjectiveConfig
from medvit.objectives._projector import OFF, PROJECTOR, ProjectorConfig
from medvit.objectives._student_teacher import by_view, seen_of
from medvit.transforms.views import Covered, MultiCropConfig
from medvit.types import Views


class AgreementViewsConfig(MultiCropConfig):
    """Options for crops: two global crops, which cover 0.3 to 1 of an image, and six local crops."""

    scale: tuple[Covered, Covered] = (0.3, 1.0)
    num_local: int = Field(default=6, ge=0)


class AgreementConfig(ObjectiveConfig):
    """Options of objectives in which projected views agree."""

    projector: ProjectorConfig = Field(default_factory=ProjectorConfig)
    views: AgreementViewsConfig = Field(default_factory=AgreementViewsConfig)

    @property
    def has_new_head(self) -> bool:
        """Whether the projector is randomly initialized."""
        return self.projector.weights in (None, OFF)

    def continued(self, folder: Path) -> Self:
        """Return the options with the projector of a checkpoint folder, if it stores one."""
        return self.model_copy(update={"projector": self.projector.kept_in(folder)})


class ViewAgreement(Objective):
    """Backbone and a projector on its class token."""

    def __init__(self, backbone: Backbone, config: AgreementConfig) -> None:
        super().__init__()
        self.backbone, self.views = backbone, config.views
        self.projector = config.projector.build(backbone.width)
        self._readings: dict[str, Tensor] = {}

    def project(self, views: Views) -> Float[Tensor, "v b d"]:
        """Return the projections of all crops of each image, view by view, the global ones first."""
        sizes = [views.crops] if views.local is None else [views.crops, views.local]
        tokens = torch.cat([seen_of(self.backbone, crops.flatten(0, 1))[0] for crops in sizes])
        return by_view(self.projector(tokens), views.crops.shape[1])

    def readings(self) -> Mapping[str, Tensor]:
        """Return values of the last forward pass that are logged in addition to the losses."""
        return self._readings

    def kept(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return the projector, for continued training."""
        return {PROJECTOR: self.projector.state_dict()}
