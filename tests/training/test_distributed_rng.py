"""The joint draws of several devices equal the draws of one device."""

import pytest
import torch

from medvit.training.distributed_rng import JointDraws

DRAWS = {
    "rand": lambda n: torch.rand(n, 5),
    "rand of a size": lambda n: torch.rand((n, 5), device="cpu"),
    "rand named": lambda n: torch.rand(size=(n, 5)),
    "randn": lambda n: torch.randn(n, 2, 3),
    "rand_like": lambda n: torch.rand_like(torch.zeros(n, 4)),
    "bernoulli": lambda n: torch.bernoulli(torch.full((n, 6), 0.5)),
    "bernoulli_": lambda n: torch.empty(n, 1, 1).bernoulli_(0.5),
    "uniform_": lambda n: torch.empty(n, 3).uniform_(1.0, 2.0),
    "normal_": lambda n: torch.empty(n, 3).normal_(),
}


@pytest.mark.parametrize("name", DRAWS)
def test_rows_of_the_devices_are_the_rows_of_the_joint_draw(name):
    draw = DRAWS[name]
    torch.manual_seed(7)
    joint = draw(6)
    for rank in range(3):
        torch.manual_seed(7)
        with JointDraws(2, world=3, rank=rank):
            part = draw(2)
        assert torch.equal(part, joint[rank::3])


def test_of_several_views_each_is_dealt_out():
    torch.manual_seed(7)
    joint = torch.rand(2 * 4, 5).unflatten(0, (2, 4))
    for rank in range(2):
        torch.manual_seed(7)
        with JointDraws(2, world=2, rank=rank):
            part = torch.rand(2 * 2, 5).unflatten(0, (2, 2))
        assert torch.equal(part, joint[:, rank::2])


def test_a_draw_that_is_of_no_sample_is_the_same_everywhere():
    torch.manual_seed(7)
    alone = torch.rand(1)
    torch.manual_seed(7)
    with JointDraws(2, world=2, rank=1):
        assert torch.equal(torch.rand(1), alone)
