"""The laws of uni4eye (Cai et al., 2022): one encoder, two ranks, edges."""

import pytest
import torch
from torch.nn import functional as F

from medvit.errors import ConfigError
from medvit.objectives.uni4eye import gradient_map
from medvit.types import Views

DECODER = {"decoder_width": 24, "decoder_depth": 1, "decoder_heads": 2, "other_patch_size": [8, 8, 8]}


def batch(ndim: int) -> Views:
    return Views(torch.randn(1, 2, 1, *(16,) * ndim, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_batch_of_one_rank_gives_the_weights_of_the_other_a_gradient_of_zero(make, ndim):
    objective = make("uni4eye", **DECODER)
    objective(batch(ndim), 0.5).total.backward()
    embeddings = {b.ndim: b.patch_embed["proj"].weight.grad for b in (objective.backbone, objective.twin.backbone)}
    assert embeddings[ndim].abs().max() > 0
    assert embeddings[5 - ndim].abs().max() == 0
    assert objective.backbone.blocks[0].mlp.fc1.weight.grad.abs().max() > 0
    assert [name for name, w in objective.named_parameters() if w.grad is None] == []


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_ranks_share_all_but_their_embedding_whichever_is_handed_on(make, ndim):
    patch = [8] * (5 - ndim)
    objective = make("uni4eye", ndim=ndim, **(DECODER | {"other_patch_size": patch}))
    one, other = objective.backbone, objective.twin.backbone
    shared = {id(w) for w in one.parameters()} & {id(w) for w in other.parameters()}
    own = [n for n, w in other.named_parameters() if id(w) not in shared]
    assert own == ["patch_embed.proj.weight", "patch_embed.proj.bias"]
    rebuilt = one.of_other_rank(other.patch_size, other.channels)
    rebuilt.load_state_dict({**one.state_dict(), **other.embedding_state()})
    pixels = batch(5 - ndim).crops[0]
    torch.testing.assert_close(rebuilt(pixels).patches, other(pixels).patches, atol=1e-6, rtol=0)


def test_learned_positions_cannot_be_shared(make):
    with pytest.raises(ConfigError, match="supports only 2D or only 3D"):
        make("uni4eye", backbone={"positions": "learned", "image_size": 16}, **DECODER)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_constant_has_no_gradient_and_a_step_has_it_at_its_edge_alone(ndim):
    assert gradient_map(torch.full((1, 1, *(16,) * ndim), 3.0)).abs().max() < 1e-5
    step = torch.zeros(1, 1, *(16,) * ndim)
    step[:, :, 8:] = 1.0
    rows = gradient_map(step).flatten(3).amax(-1)[0, 0]
    assert torch.nonzero(rows > 1e-6).flatten().tolist() == [6, 7, 8, 9]


def test_the_gradient_map_is_sobels_of_side_five():
    pixels = torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    slope, smooth = torch.tensor([-1.0, -2, 0, 2, 1]) / 6, torch.tensor([1.0, 4, 6, 4, 1]) / 16
    kernels = [torch.outer(slope, smooth), torch.outer(smooth, slope)]
    padded = F.pad(pixels, (2, 2, 2, 2), mode="replicate")
    expected = sum(F.conv2d(padded, kernel[None, None]).abs() for kernel in kernels) / 2
    torch.testing.assert_close(gradient_map(pixels), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_both_losses_fall_and_pictures_are_of_either_rank(make, ndim):
    objective = make("uni4eye", mask_ratio=0.5, **DECODER)
    ramp = torch.linspace(-1, 1, 16).reshape(-1, *(1,) * (ndim - 1)) ** 2
    views = Views((ramp * torch.ones(4, 1, *(16,) * ndim))[None])
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3, fused=True)
    history = []
    for step in range(50):
        torch.manual_seed(step)
        optimizer.zero_grad()
        losses = objective(views, 0.5)
        losses.total.backward()
        optimizer.step()
        history.append({name: term.item() for name, term in losses.terms.items()})
    assert all(history[-1][name] < 0.7 * history[0][name] for name in ("reconstruction", "gradient"))
    assert "reconstruction" in objective.eval().pictures(views)
