"""Datasets on disk: manifest, content-addressed store, quarantine; rows as samples and slices; export to files.

The contract. `Manifest` is the table of rows, `Store` holds pixels and label maps once each, `quarantine` lists what
was not taken and why. Everything here speaks in pseudonyms. `samples` and `slices` turn rows into what a model takes,
`export` into files that other programs open.
"""

VERSION = 1
"""Raise when what this room stores or draws of an image changes, so that an update of a dataset does it again."""
