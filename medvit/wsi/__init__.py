"""Whole-slide images: open, read regions at any scale, find tissue, choose tiles.

The contract. Positions on a slide are in pixels of level 0, x along a row and y down; scale is in microns per pixel.
Each backend gives a `Pyramid`; `Slide` reads any region of it. Label and macro images are never read: they show names.
"""

VERSION = 2
"""Raise when the values read from a file change, so that an update of a dataset reads its files again."""
