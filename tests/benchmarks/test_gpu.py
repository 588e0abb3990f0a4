"""The check on a GPU, run here on a CPU with a transformer that is small enough."""

import math

import pytest
import torch

from benchmarks import gpu
from medvit.backbones.vit import VitConfig
from medvit.objectives.dinov2 import DinoV2Config
from medvit.objectives.mae import MaeConfig

VIT = VitConfig(size="micro", depth=1, ndim=2, channels=3, patch_size=14)
OBJECTIVES = (MaeConfig(decoder_depth=1, decoder_width=32), DinoV2Config(head={"prototypes": 32, "hidden": 16}))
CPU = torch.device("cpu")


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)
def test_every_figure_of_a_training_is_told(objective, capsys):
    case = gpu.Case(VIT, objective, side=112, batch=2)
    figures = gpu.measure(case, CPU, steps=2)
    gpu.print_figures("a CPU", gpu.matmul_rate(CPU, 64), [(case.name, figures)])
    numbers = (figures.images_s, figures.flop_s, figures.peak_bytes)
    assert all(math.isfinite(number) and number > 0 for number in numbers)
    assert f"{objective.name}, ViT micro, 2 images" in capsys.readouterr().out


def test_it_measures_small_base_and_large_by_both_objectives():
    assert {(case.backbone.size, case.objective.name) for case in gpu.cases()} == {
        (size, name) for size in ("small", "base", "large") for name in ("mae", "dinov2")
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_ends(tmp_path, capsys):
    gpu.run(tmp_path, 1)
    assert "no GPU" in capsys.readouterr().out
