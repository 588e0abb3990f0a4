"""Steps of ingest: scan a source, label, split, flag, store and update.

The contract. A step takes the images found in a source as `Candidate`s and returns them with more filled in: their
patients, labels and splits. Only then are pixels read and stored, which turns each candidate into a `Taken`. A
candidate holds names, identifiers and paths; a row does not, and only pseudonyms pass from one to the other.
"""

import sys

from medvit import StageRoom

VERSION = 4
"""Raise when what is stored or recorded of an image changes, so that updating a dataset reads the image again."""

sys.modules[__name__].__class__ = StageRoom  # medvit.ingest(...) runs the stage
