"""Criteria by which a model takes the series of a study."""
