"""Metrics of the pixels of a class over all images together, without ignored pixels, one per module."""
