"""Benchmarks of `make bench`: medvit and other tools on the same files, in one run.

Compare the ratios between tools. Absolute times depend on the machine and its load.
"""

import medvit as medvit  # imported first, since it fixes torchvision for lightning and timm
