"""Metrics of the volumes of a class over all images, one per module."""
