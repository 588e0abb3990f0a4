"""Loaders of training batches: choice and order of images, and their crops.

An epoch has a fixed length. Its random draws depend only on the seed and the epoch, so a resumed run repeats the
uninterrupted one, on any number of processes.
"""
