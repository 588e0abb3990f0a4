"""Explanations: maps of the parts of an image that a prediction depends on, each with checks of the map.

`methods` compute maps, `outputs` defines the number that is explained, `checks` compares a map with random maps and
with that of a model with random weights, and `explain` puts a map on the grid of the image. `drawing` and `page` show
it.

A map describes the model, not the disease. It does not show that the marked area is abnormal, nor why.
"""
