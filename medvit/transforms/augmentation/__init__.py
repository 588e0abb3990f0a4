"""Random augmentation of training crops, for both fine-tuning and pretraining, with the same keys.

Each kind of augmentation is a file: a config (zero or an empty list turns an augmentation off), a frozen dataclass of
drawn parameters, `draw_...(config, generator)` and `apply_...(pixels, drawn)`. A draw depends only on the generator and
consumes the same random numbers whatever is turned off, so that options do not affect each other's draws. `options`
combines the configs and has the defaults of each stage; `training_crop` makes the crops of fine-tuning,
`medvit.transforms.views` those of pretraining.

Amounts do not depend on the preprocessing: intensities are in standard deviations of the crop, rotation is in mm, blur
has the same width in mm along every axis, translations are shares of the crop.
"""
