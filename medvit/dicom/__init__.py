"""One DICOM instance: its header, its pixels and its lookup tables.

The contract. A header is read without pixels, by a direct parser for well-formed files and by pydicom for all others;
both give the same values. Pixels come as stored, with the transformation that gives real values. Geometry here is LPS
and mm, as in the file. Relations between instances are the subject of `medvit.series`.
"""

VERSION = 4
"""Raise when the values read from a file change, so that an update of a dataset reads its files again."""
