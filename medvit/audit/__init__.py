"""Search for identifiers of a source's patients in a dataset, its de-identified copy and the MLflow store.

The contract. `needles` collects the identifying values of a source in the forms in which they may occur elsewhere,
`rarity` decides which of them are worth searching for, `search` walks the places, `matcher` finds them in texts, and
`documents` reads tables and texts beside the images of a source. A finding names the place and the kind of the value,
never the value.
"""
