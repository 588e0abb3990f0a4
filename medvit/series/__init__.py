"""From DICOM instances to volumes: grouping, splitting, geometry, frames and mosaics.

The contract. Headers go in, items come out: instances of one series and one grid are a volume, ordered along the slice
normal (PS3.3 C.7.6.2.1.1); slices that do not form a regular grid are refused with the measured reason, resampled, or
kept as images, as configured. Affines map voxels to RAS+ mm.
"""

VERSION = 4
"""Raise when the values read from a file change, so that an update of a dataset reads its files again."""
