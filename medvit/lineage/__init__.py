"""Lineage of artifacts on disk: the inputs that an artifact was made from, the artifacts that used it, and patients."""
