"""Transforms of pixels before a model: fixed preprocessing, random augmentation, views and masks.

`preprocess` is the fixed chain that a checkpoint carries, the same in training and in the clinic; `augmentation` and
`views` are random and belong to training. Sampling is apart from applying: every random draw comes from a given seed.
"""
