"""Memory reuse and garbage collection; glibc needs a few repeats until a hole fits the requested size."""

import ctypes
import gc
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from medvit.hardware import few_collections, memory_bytes

PROGRAM = """
import resource
import torch
from medvit.hardware import keep_freed_memory

kept = keep_freed_memory()
faults = []
for _ in range(24):
    torch.ones(2**23)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(kept, faults[-1] - faults[-9])
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can be asked to keep memory")
def test_memory_that_was_freed_is_used_again_without_new_pages():
    shown = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    kept, faults = shown.split()
    pages = 8 * 2**25 // 4096
    assert kept == "True"
    assert int(faults) < pages / 100


@pytest.mark.parametrize("before", [(700, 10, 10), (0, 10, 10)], ids=["usual", "never"])
def test_cycles_are_searched_for_less_often_meanwhile_and_as_before_then(before: tuple[int, int, int]) -> None:
    usual = gc.get_threshold()
    gc.set_threshold(*before)
    try:
        with suppress(KeyError), few_collections():
            meanwhile = gc.get_threshold()
            raise KeyError
        assert gc.get_threshold() == before
        assert meanwhile[0] > before[0] if before[0] else meanwhile == before
    finally:
        gc.set_threshold(*usual)


def test_the_memory_of_a_container_is_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, limit, no_limit = torch.device("cpu"), tmp_path / "memory.max", tmp_path / "limit_in_bytes"
    monkeypatch.setattr("medvit.hardware.CGROUP_LIMITS", (limit, no_limit))
    whole = memory_bytes(cpu)
    assert whole > 2**26
    no_limit.write_text("9223372036854771712\n")
    for text, expected in (("max\n", whole), ("67108864\n", 2**26)):
        limit.write_text(text)
        assert memory_bytes(cpu) == expected
