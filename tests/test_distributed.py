"""Computing over two processes equals computing over all rows in one."""

import torch
from torch import distributed, multiprocessing
from torch.nn import functional as F

from medvit.losses.distillation import Center, sinkhorn_knopp
from medvit.losses.feature_spread import coding_rate, kernel_density_loss, koleo_loss

ROWS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def everything(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Balanced targets, a moved center, regularizers and their gradient."""
    center = Center(5, 0.9)
    center.follow(rows)
    weight = torch.eye(5).requires_grad_()
    features = F.normalize(rows @ weight, dim=-1)
    rate = coding_rate(features[None]) + kernel_density_loss(features) + koleo_loss(features)
    (gradient,) = torch.autograd.grad(rate, weight)
    return sinkhorn_knopp(rows, 0.07), center.values, rate.detach(), gradient


def work(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(everything(ROWS[3 * rank : 3 * rank + 3]), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_compute_what_one_computes_of_all_rows(tmp_path):
    multiprocessing.start_processes(work, args=(str(tmp_path),), nprocs=2, start_method="fork")
    (targets, *one), parts = everything(ROWS), [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), targets, atol=1e-5, rtol=0)
    for part in parts:
        torch.testing.assert_close(part[1], one[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(part[2], one[1], atol=1e-5, rtol=0)
    # Distributed training takes the mean of the gradients of all processes.
    mean = (parts[0][3] + parts[1][3]) / 2
    torch.testing.assert_close(mean, one[2], atol=1e-5, rtol=0)
