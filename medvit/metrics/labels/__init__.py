"""Metrics over all labels of a multi-label classification, one per module."""
