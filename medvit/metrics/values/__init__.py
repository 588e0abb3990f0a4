"""Metrics of predicted numbers (regression), one per module."""
