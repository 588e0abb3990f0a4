"""Metrics of lesions, the connected components of a mask, one per module."""
