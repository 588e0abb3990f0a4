"""What `make bench` runs: medvit beside other tools, on the same files, in one run; ratios count, not times."""

from medvit import torchvision_operators

torchvision_operators.install()  # before lightning or timm is imported
