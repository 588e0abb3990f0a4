"""Loaders of training batches: which images, in which order, and the crops made of them.

The contract. An epoch has a set length; what is drawn in it is a function of the seed and the epoch alone, so
that a resumed run repeats the uninterrupted one, on any number of processes.
"""
