"""The loss of mixed images is the mean of the losses for both targets, and a step draws the same mixture again."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medvit.models.image import Model, ModelConfig
from medvit.training.finetuning import Finetuning
from medvit.training.optim import OptimConfig
from medvit.transforms.augmentation.mixing import MixingConfig
from medvit.types import Batch, RunLength

VIT = {"name": "vit", "ndim": 2, "channels": 1, "patch_size": 4, "width": 12, "depth": 1, "heads": 2}


@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_the_loss_of_mixed_images_is_that_of_both_targets_by_the_share_of_their_pixels(tmp_path, method) -> None:
    given = {"kind": "classification", "backbone": VIT, "peft": {"name": "full"}, "head": {"name": "linear"}}
    config = ModelConfig.parse(given | {"classes": ["no", "yes"], "applies_to": {"kind": "image"}})
    model = Model(config, config.backbone.build()).eval()
    seen = []
    model.register_forward_pre_hook(lambda _model, inputs: seen.append(inputs[0]))
    module = Finetuning(
        model,
        lambda logits, targets, progress=0.0: F.cross_entropy(logits, targets),
        OptimConfig(),
        length=RunLength(2, 2, 1),
        seed=0,
        folder=tmp_path,
        keep="last",
        mixing=MixingConfig(**{method: 1.0}),
    )
    pixels, targets = torch.stack([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)]), torch.tensor([0, 1])
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append(module._mixed_loss(module.mixing, pixels, targets))
    share = seen[0][1].mean()
    assert 0.0 < share < 1.0
    logits = model(seen[0])
    own, other = F.cross_entropy(logits, targets), F.cross_entropy(logits, targets.flip(0))
    torch.testing.assert_close(losses[0], share * own + (1.0 - share) * other)
    assert losses[0] == losses[1]
    torch.manual_seed(3)
    assert module._loss(Batch(pixels, targets)) == losses[0]
