"""What `make bench` runs: medvit beside other tools, on the same files, in one run; ratios count, not times."""
