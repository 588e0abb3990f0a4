"""How memory is kept; glibc needs a few rounds until a hole fits what is asked for."""

import subprocess
import sys

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


def test_memory_that_was_freed_is_used_again_without_new_pages():
    shown = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    kept, faults = shown.split()
    pages = 8 * 2**25 // 4096
    assert kept == "False" or int(faults) < pages / 100
