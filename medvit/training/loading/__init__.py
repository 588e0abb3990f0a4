"""Loaders of training batches: choice and order of images, and their crops.

The contract. An epoch has a set length; its draws depend only on the seed and the epoch, so that a resumed run repeats
the uninterrupted one, on any number of processes.
"""
