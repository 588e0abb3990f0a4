"""Datasets on disk: manifest, content-addressed store, quarantine; rows as samples and slices; export to files.

The contract. `Manifest` is the table of rows, `Store` holds pixels and label maps once each, `quarantine` lists
refused files with reasons. Everything here uses pseudonyms. `samples` and `slices` turn rows into model inputs,
`export` into files that other programs open.
"""

VERSION = 1
"""Raise when what is stored or drawn of an image changes, so that an update of a dataset does it again."""
