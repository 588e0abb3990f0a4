"""The laws of SwAV (Caron et al., NeurIPS 2020)."""

import pytest
import torch
from torch.nn import functional as F

from medvit.objectives.swav import SwavConfig
from medvit.types import Views

OPTIONS = {"projector": {"hidden": 24, "width": 6}, "prototypes": 5}


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_weight_learns_from_every_view(make, views, ndim):
    objective = make("swav", ndim=ndim, **OPTIONS)
    objective(views(ndim), 0.5).total.backward()
    assert [name for name, weight in objective.named_parameters() if weight.grad is None] == []


def test_codes_are_probabilities_that_use_all_prototypes_alike(make):
    objective = make("swav", **OPTIONS | {"sinkhorn_iterations": 50, "epsilon": 0.2})
    codes = objective.codes(F.normalize(torch.randn(2, 40, 6), dim=-1), 0.0)
    torch.testing.assert_close(codes.sum(dim=-1), torch.ones(2, 40))
    torch.testing.assert_close(codes.mean(dim=1), torch.full((2, 5), 0.2), atol=1e-4, rtol=0)


def test_a_queue_that_holds_the_batch_itself_changes_no_code(make):
    objective = make("swav", **OPTIONS, queue=40).train()
    features = F.normalize(torch.randn(2, 40, 6), dim=-1)
    alone = objective.codes(features, 1.0)
    objective._enqueue(features)
    torch.testing.assert_close(objective.codes(features, 1.0), alone)
    objective._enqueue(features[:, :10] * -1.0)
    assert not torch.allclose(objective.codes(features, 1.0), alone)
    assert torch.equal(objective.codes(features, 0.0), alone), "the queue is not used at first"


def test_the_queue_holds_the_last_images_only(make, views):
    objective = make("swav", **OPTIONS, queue=7).train()
    for seed in range(4):
        torch.manual_seed(seed)
        objective(views(), 0.0)
    assert int(objective.num_queued) == 7
    torch.testing.assert_close(objective.queue.norm(dim=-1), torch.ones(2, 7))
    objective.eval()
    before = objective.queue.clone()
    objective(views(), 0.5)
    assert torch.equal(objective.queue, before), "reading the loss leaves the queue"


def test_the_loss_is_the_cross_entropy_of_swapped_codes(make, views):
    objective, batch = make("swav", **OPTIONS, queue=0), views()
    tokens = [objective.backbone(crops).prefix[:, 0] for crops in (*batch.crops, *batch.local)]
    features = F.normalize(objective.projector(torch.cat(tokens)).unflatten(0, (4, 3)), dim=-1)
    codes = objective.codes(features[:2].detach(), 0.5)
    logits = features @ F.normalize(objective.prototypes, dim=1).T / 0.1
    pairs = [(code, view) for code in range(2) for view in range(4) if code != view]
    expected = torch.stack([-(codes[c] * logits[v].log_softmax(-1)).sum(-1).mean() for c, v in pairs]).mean()
    torch.testing.assert_close(objective(batch, 0.5).total, expected, atol=1e-5, rtol=1e-5)


def test_no_gradient_passes_through_codes_and_prototypes_are_frozen_at_first(make, views):
    objective = make("swav", **OPTIONS, freeze_prototypes=0.1)
    codes = objective.codes(torch.randn(2, 4, 6, requires_grad=True), 0.5)
    assert not codes.requires_grad
    objective(views(), 0.05).total.backward()
    objective.before_step(0.05)
    assert objective.prototypes.grad is None
    objective(views(), 0.2).total.backward()
    objective.before_step(0.2)
    assert objective.prototypes.grad is not None


def test_equal_crops_predict_their_code_as_well_as_its_entropy_allows(make, views):
    crops = views(num_local=0, num_images=12).crops[:1].repeat(2, 1, 1, 1, 1)
    objective = make("swav", **OPTIONS, epsilon=0.1, sinkhorn_iterations=1, temperature=0.1, queue=0)
    loss = objective(Views(crops), 0.5).total.item()
    tokens = objective.backbone(crops[0]).prefix[:, 0]
    features = F.normalize(objective.projector(torch.cat([tokens, tokens]))[:12], dim=-1)
    codes = objective.codes(features[None].repeat(2, 1, 1).detach(), 0.5)[0]
    assert loss >= -(codes * codes.log()).sum(dim=-1).mean().item() - 1e-5


def test_setting_one_key_of_a_group_leaves_the_others():
    config = SwavConfig.parse({"name": "swav", "projector": {"hidden": 64}, "views": {"num_local": 2}})
    assert (config.projector.layers, config.projector.width) == (2, 128)
    assert config.views.scale == (0.3, 1.0)
