"""Hypothesis profile of the suite: default number of examples, without a deadline on busy machines."""

from hypothesis import settings

settings.register_profile("suite", max_examples=50, deadline=None)
settings.load_profile("suite")
