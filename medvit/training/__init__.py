"""Training with Lightning: modules of pretraining and fine-tuning, optimizers, trainer, resume.

Training is told in steps and rounds. A round is the distance between two checkpoints, validations and monitor readings.
What is random in a step is a function of the seed and the step alone, so a resumed run repeats the uninterrupted one.
"""
