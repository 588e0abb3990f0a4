"""Loaders of training batches: selection, order and crops of images.

An epoch has a fixed length. The random draws in an epoch depend only on the seed and the epoch, for any number of
processes, so a resumed run repeats the uninterrupted one.
"""
