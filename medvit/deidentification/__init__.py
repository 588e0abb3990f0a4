"""De-identification (PS3.15 Annex E): pseudonyms, crosswalk, header cleaning, burned-in text.

The contract. `profile` defines the action for each element, `cleaning` applies it to a data set, `pixels` to its pixel
data, `text_detector` and `burned_in` find and blank printed text. Replacements are keyed hashes with the key of the
site (`pseudonyms`); the crosswalk, the only means of re-identification, is stored only beside that key.
"""

VERSION = 1
"""Raise when the text found or blanked in pixels changes, so that an update of a dataset does it again."""
