"""Training with Lightning: modules of pretraining and fine-tuning, optimizers, trainer, resume.

Progress is counted in steps and epochs. After each epoch, a checkpoint is written, validation runs and the guard
evaluates its probes. Randomness in a step depends only on the seed and the step, so a resumed run repeats the
uninterrupted one.

`assembly`, `pretraining_assembly` and `slide_assembly` build a training run from its options, `pretrained` writes the
result of pretraining, and `planning` estimates the cost of a run.
"""
