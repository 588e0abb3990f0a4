"""Explanations of models of slides: a value for each tile, with checks of the values, drawn on the slide.

`methods` compute the values from the embeddings of the tiles, `bags` defines the number that is explained, `explain`
adds the checks, and `drawing` shows the map.
"""
