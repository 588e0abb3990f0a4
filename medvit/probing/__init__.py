"""Probes of frozen backbones on a labeled dataset: nearest neighbors, linear classifiers, and a sweep over layers."""
