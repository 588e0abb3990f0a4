"""Search for identifiers of a source's patients in a dataset, its de-identified copy and the MLflow store.

`needles` collects the identifying values of a source, in the forms in which they may occur elsewhere. `rarity` decides
which of them are worth searching for. `search` searches the places, `matcher` finds these values (the needles) in
texts, and `documents` reads tables and texts next to the images of a source. A finding names the place and the type of
the value, never the value.
"""
