"""Inference: run a model on studies.

`series_selection` chooses the series of a study. A job (`study_job` or `slide_job`, made by `jobs` according to the
model) turns one study into a `Result` and passes it to the writers. `worklist` stores the status of every study on
disk, and lets several processes share the studies; `batch` processes them. A failure is recorded with its reason and
never stops the other studies.
"""
