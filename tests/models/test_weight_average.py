"""The average of weights follows its formula, and is exchanged with the weights without loss."""

import torch

from medvit.models.weight_average import WeightAverage


def test_the_average_is_exponential_with_a_warm_up():
    weight = torch.zeros(1)
    average = WeightAverage(lambda: {"weight": weight}, 0.5)
    expected = 0.0
    for step in range(1, 30):
        weight.fill_(float(step))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = step if step == 1 else decay * expected + (1 - decay) * step
    torch.testing.assert_close(average.state["weight"], torch.tensor([expected]))


def test_constant_weights_are_their_average_and_integers_are_copied():
    state = {"weight": torch.full((3,), 0.7), "count": torch.tensor(0)}
    average = WeightAverage(lambda: state, 0.9)
    for step in range(1, 5):
        state["count"].fill_(step)
        average.update(step)
    torch.testing.assert_close(average.state["weight"], state["weight"])
    assert average.state["count"] == 4


def test_swapping_twice_restores_the_weights_bit_for_bit():
    layer = torch.nn.Linear(3, 2)
    average = WeightAverage(layer.state_dict, 0.9)
    average.update(1)
    first = {name: weight.clone() for name, weight in layer.state_dict().items()}
    with torch.no_grad():
        layer.weight.add_(1.0)
    last = layer.weight.clone()
    average.swap()
    assert torch.equal(layer.weight, first["weight"])
    average.swap()
    assert torch.equal(layer.weight, last)
    assert torch.equal(average.state["weight"], first["weight"])
