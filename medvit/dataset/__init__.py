"""Datasets on disk: manifest, pixel store and quarantine; conversion of rows to samples and slices; export to files.

`Manifest` is the table of rows. `Store` stores every array of pixels and every label map once. `quarantine` lists
refused files with reasons. All of them identify patients by pseudonyms only. `samples` and `slices` turn rows into
model inputs; `export` writes files that other programs can open.
"""

VERSION = 1
"""Version of the data that are stored for an image. If it is increased, the next update of a dataset reads all
images again.
"""
