"""A stage in two processes, started as torchrun starts them, without two new interpreters."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint.state_dict  # lightning imports it in each process that has sharded weights
from torch import multiprocessing

from medvit.stage import Stage


def run_in_two(stage: Stage[Any, Any], options: Mapping[str, Any], *, trainer: Mapping[str, Any]) -> Path:
    """Run a stage in two processes with half the batch each; return where it ended, or was stopped.

    The processes are forks of this one: they need not import torch again.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    batch_size = options["loader"]["batch_size"] // 2
    shared = {"loader": {"batch_size": batch_size}, "trainer": {**options["trainer"], "devices": 2, **trainer}}
    given = {**options, **shared}
    multiprocessing.start_processes(_one_of_two, args=(stage, given, port), nprocs=2, start_method="fork")
    return Path(given["output"])


def _one_of_two(rank: int, stage: Stage[Any, Any], options: dict[str, Any], port: int) -> None:
    torch.set_num_threads(1)  # threads of OpenMP do not survive a fork: whoever waits for them waits forever
    os.environ |= {name: str(rank) for name in ("RANK", "LOCAL_RANK")}
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "tests"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with contextlib.suppress(KeyboardInterrupt, SystemExit):  # stopped, or left to rank 0
        stage(**options)
