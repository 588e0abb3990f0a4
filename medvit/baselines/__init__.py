"""Simple baselines: what classifiers without a foundation model reach on the same split of a dataset."""
