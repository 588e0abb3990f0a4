"""Steps of ingest: scan a source, label, split, flag, store and update.

The contract. A step takes the images found in a source as `Candidate`s and gives them back with more known: who they
are of, their labels, their split. Only then are pixels read and stored, which makes a `Taken` of each. A candidate
knows names, identifiers and paths; a row does not, and only pseudonyms pass from one to the other.
"""

import sys

from medvit import StageRoom

VERSION = 4
"""Raise when what is stored or noted of an image changes, so that an update of a dataset takes it again."""

sys.modules[__name__].__class__ = StageRoom  # medvit.ingest(...) runs the stage
