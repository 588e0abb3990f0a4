"""Drafts of configurations for a surveyed source: commented YAML with the reason for every option.

A draft can be run without changes. Options that the survey cannot decide are not guessed: they are written as comments,
with the evidence for them, and are valid once the # is removed. Only the draft of ingest, which is readable by its
owner only, contains a path of the source.
"""
