"""De-identification (PS3.15 Annex E): pseudonyms, crosswalk, header cleaning, burned-in text.

The contract. `profile` says what becomes of each element, `cleaning` applies it to a data set, `pixels` to its pixel
data, `text_detector` and `burned_in` find and blank printed text. Replacements are keyed hashes with the key of the
site (`pseudonyms`); the crosswalk, the only way back, is kept beside that key and nowhere else.
"""

VERSION = 1
"""Raise when what this room finds or blanks in pixels changes, so that an update of a dataset does it again."""
