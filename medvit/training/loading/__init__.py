"""Loaders of training batches: selection, order and crops of images.

An epoch has a fixed length. Its random draws depend only on the seed and the epoch, so a resumed run repeats the
uninterrupted one. This holds for any number of processes.
"""
