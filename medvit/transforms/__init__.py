"""Transforms of pixels before a model: fixed preprocessing, random augmentation, views and masks.

`preprocess` is the fixed preprocessing stored in a checkpoint, the same in training and inference; `augmentation` and
`views` are random and used only in training. Sampling is separate from applying: every random draw comes from a given
seed.
"""
