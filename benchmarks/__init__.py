"""Benchmarks of `make bench`: medvit and other tools on the same files, in one run; ratios count, not times."""

import medvit as medvit  # imported first, since it fixes torchvision for lightning and timm
