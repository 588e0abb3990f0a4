"""Metrics of predicted probabilities and of their calibration, one per module."""
