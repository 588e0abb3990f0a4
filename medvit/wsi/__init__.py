"""Whole-slide images: open, read regions at any scale, find tissue, choose tiles.

The contract. A place on a slide is in pixels of level 0, x along a row and y down; scale is in microns per pixel.
Each backend gives a `Pyramid`; `Slide` reads any region of it. Label and macro pictures are never read: they carry
names.
"""

VERSION = 2
"""Raise when what this room reads of a file changes, so that an update of a dataset reads it again."""
