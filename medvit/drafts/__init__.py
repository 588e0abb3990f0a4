"""Drafts of configurations that fit a surveyed source: every option with its reason, as commented YAML.

The contract. A draft runs unchanged. What the survey leaves open is not guessed: the option is written as a comment,
with what speaks for it, and is valid as it stands once its # is removed. Only the draft of ingest, which its owner
alone may read, holds a path of the source.
"""
