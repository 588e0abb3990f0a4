"""What `make bench` runs: medvit beside other tools, on the same files, in one run; ratios count, not times."""

import medvit as medvit  # first of all, since it mends torchvision for lightning and timm
