"""Drafts of configurations that fit a surveyed source: every option with its reason, as commented YAML.

The contract. A draft runs unchanged. Options that the survey cannot decide are not guessed: they are written as
comments, with the evidence for them, and are valid once the # is removed. Only the draft of ingest, readable by its
owner only, contains a path of the source.
"""
