"""Random augmentation of training crops, for fine-tuning and pretraining alike: one set of keys, each with one meaning.

Every idea is a file: a config of what may happen (zero or an empty list turns a change off), a frozen dataclass of what
was drawn, `draw_...(config, generator)` and `apply_...(pixels, drawn)`. A draw is a function of the generator alone and
takes the same numbers whatever is turned off, so that no option shifts another's. `options` joins the configs and holds
the defaults of each stage; `training_crop` makes the crops of fine-tuning, `medvit.transforms.views` those of
pretraining.

Amounts do not depend on the preprocessing: intensities are in standard deviations of the crop, rotation happens in mm,
blur is as wide in mm along every axis, shifts are shares of the crop.
"""
