"""Methods that train some of the existing weights: BitFit and the last blocks."""

import pytest

from medvit.backbones.vit import VitConfig
from medvit.errors import ConfigError
from medvit.peft.bitfit import BitfitConfig
from medvit.peft.last_blocks import LastBlocksConfig


def backbone(**options):
    return VitConfig(
        **{"ndim": 2, "channels": 1, "patch_size": 8, "width": 32, "depth": 4, "heads": 2} | options
    ).build()


def test_bitfit_trains_every_bias_and_nothing_else():
    trained = BitfitConfig().adapt(backbone()).trained()
    block = {"norm1.bias", "norm2.bias", "attn.qkv.bias", "attn.proj.bias", "mlp.fc1.bias", "mlp.fc2.bias"}
    inside = {f"blocks.{number}.{name}" for number in range(4) for name in block}
    assert trained == inside | {"norm.bias", "patch_embed.proj.bias"}


def test_bitfit_trains_the_separate_biases_of_rotary_attention():
    trained = BitfitConfig().adapt(backbone(positions="rope")).trained()
    assert {"blocks.0.attn.q_bias", "blocks.0.attn.v_bias"} <= trained
    assert not any(name.endswith("weight") for name in trained)


@pytest.mark.parametrize("num_blocks", [1, 3, 4])
def test_the_last_blocks_and_the_final_norm_are_trained(num_blocks):
    trained = LastBlocksConfig(num_blocks=num_blocks).adapt(backbone()).trained()
    expected = {str(number) for number in range(4 - num_blocks, 4)}
    assert {name.split(".")[1] for name in trained if name.startswith("blocks.")} == expected
    assert {name for name in trained if not name.startswith("blocks.")} == {"norm.weight", "norm.bias"}


def test_more_blocks_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"peft\.num_blocks is 5; expected at most the backbone's 4 blocks"):
        LastBlocksConfig(num_blocks=5).adapt(backbone())
