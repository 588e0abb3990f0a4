"""Random augmentation of training crops, with the same options for fine-tuning and pretraining.

Each kind of augmentation is a file with a config (zero or an empty list turns an augmentation off), a frozen dataclass
of drawn parameters, `draw_...(config, generator)` and `apply_...(pixels, drawn)`. A draw depends only on the generator,
and always consumes the same random numbers, even if augmentations are off, so that options do not affect the draws of
one another. `options` combines the configs and defines the defaults of each stage. `training_crop` makes the crops for
fine-tuning, `medvit.transforms.views` those for pretraining.

The units of strengths do not depend on the preprocessing: intensities are in standard deviations of the crop, rotations
are about axes in mm, blur has the same width in mm along every axis, and translations are fractions of the crop.
"""
