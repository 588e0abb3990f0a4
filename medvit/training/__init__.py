"""Training with Lightning: modules of pretraining and fine-tuning, optimizers, trainer, resume.

Training is measured in steps and epochs. Each epoch ends with a checkpoint, a validation and a reading of the monitors.
What is random in a step is a function of the seed and the step alone, so a resumed run repeats the uninterrupted one.

`assembly`, `pretraining_assembly` and `slide_assembly` build a training from its options, `pretrained` writes what a
pretraining passes on; `planning` estimates the cost of one.
"""
