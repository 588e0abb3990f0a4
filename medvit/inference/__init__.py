"""Inference: run a model on studies.

The contract. `series_selection` chooses the series of a study, a job (`study_job`, `slide_job`; `jobs` makes the one
that fits a model) turns one study into a `Result` and passes it to the writers, `worklist` stores the status of every
study on disk: a failure is recorded with its reason and never stops the others.
"""
