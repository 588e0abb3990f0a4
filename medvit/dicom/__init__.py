"""One DICOM instance: its header, its pixels and its lookup tables.

A header is read without pixels: by a direct parser for well-formed files, and by pydicom for all others, with equal
results. Pixels are returned as stored, with the transformation to real values. Geometry in this package is LPS and mm,
as in the files. Relations between instances are handled in `medvit.series`.
"""

VERSION = 5
"""Version of the values read from a file. If it is increased, the next update of a dataset reads all files again."""
