"""Whole-slide images: open slides, read regions at any magnification, find tissue, choose tiles.

Positions on a slide are in pixels of level 0 (full resolution), x along a row and y down; the scale is in microns per
pixel. Each backend provides a `Pyramid`; `Slide` reads any region of it. Label and macro images are never read, because
they may show names.
"""

VERSION = 2
"""Version of this package. Increment it if the values read from a file change: an update of a dataset then rereads the
files.
"""
