"""One DICOM instance: its header, its pixels and its lookup tables.

The contract. A header is read without pixels, by a direct parser for well-formed files and by pydicom for all others;
both give the same values. Pixels come as stored, with the transformation that gives real values. Geometry here is LPS
and mm, as in the file. What instances make together is known to `medvit.series`.
"""

VERSION = 3
"""Raise when what this room reads of a file changes, so that an update of a dataset reads it again."""
