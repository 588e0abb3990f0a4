"""Search a dataset, its copies and the MLflow store for what identifies patients in the source.

The contract. `needles` collects the identifying values of a source in the forms in which they may turn up elsewhere,
`rarity` says which of them are worth a search, `search` walks the places, `matcher` finds them in texts, and `metadata`
reads the texts of files that are not DICOM. A finding names the place and the kind of the value, never the value.
"""
