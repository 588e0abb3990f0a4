"""Transforms of pixels before a model: fixed preprocessing, random augmentation, views and masks.

`preprocess` is the fixed preprocessing that a checkpoint stores; it is the same in training and inference.
`augmentation` and `views` are random and used only in training. Drawing random parameters is separate from applying
them, and every draw is determined by a given seed.
"""
