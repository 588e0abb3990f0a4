"""Training with Lightning: modules of pretraining and fine-tuning, optimizers, trainer, resume.

Progress is counted in steps and epochs. Each epoch ends with a checkpoint, a validation and a reading of the monitors.
Randomness in a step depends only on the seed and the step, so a resumed run repeats the uninterrupted one.

`assembly`, `pretraining_assembly` and `slide_assembly` build a training from its options, `pretrained` writes the
result of a pretraining; `planning` estimates the cost of one.
"""
