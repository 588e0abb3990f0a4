"""From DICOM instances to volumes: grouping, splitting, geometry, frames and mosaics.

The contract. Headers go in, items come out: instances of one series and one grid are a volume, ordered along the slice
normal (PS3.3 C.7.6.2.1.1); what makes no regular grid is refused with the measured reason, resampled, or kept as
images, as the config says. Affines map voxels to RAS+ mm.
"""

VERSION = 3
"""Raise when what this room reads of a file changes, so that an update of a dataset reads it again."""
