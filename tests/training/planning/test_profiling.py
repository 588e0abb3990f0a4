"""Cost of a few steps: operations of attention on a CPU, and activations kept for the backward pass."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from medvit.training.planning.profiling import attention_on_cpu
from medvit.training.proposals.memory import stored_for_backward


def test_operations_of_attention_on_a_cpu_are_counted():
    query = torch.randn(1, 2, 8, 4, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=attention_on_cpu()) as counter:
        F.scaled_dot_product_attention(query, query, query)
    assert counter.get_total_flops() == 2 * (2 * 2 * 8 * 8 * 4)  # two products of 8 x 8 x 4 in each of two heads


def test_kept_activations_are_counted_once_and_without_weights():
    layer, pixels = nn.Linear(16, 16, bias=False), torch.randn(4, 16)
    with stored_for_backward(layer) as stored:
        layer(pixels).exp().sum().backward()
    assert stored.num_bytes == 2 * 4 * 16 * 4  # the input of the layer, and the exponential
