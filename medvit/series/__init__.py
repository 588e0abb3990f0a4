"""From DICOM instances to volumes: grouping, splitting, geometry, frames and mosaics.

Instances of one series on one grid form a volume, ordered along the slice normal (PS3.3 C.7.6.2.1.1). Slices that do
not form a regular grid are refused with the measured deviation, resampled, or kept as 2D images, as configured. Affines
map voxels to RAS+ mm.
"""

VERSION = 4
"""Version of this package. Increment it if the values read from a file change: an update of a dataset then rereads the
files.
"""
