"""De-identification (PS3.15 Annex E): pseudonyms, crosswalk, header cleaning, burned-in text.

`profile` defines the action for each element, `cleaning` applies it to a data set, `pixels` handles pixel data, and
`text_detector` and `burned_in` find and blank burned-in text. Replacements are hashes with the site's key
(`pseudonyms`). The crosswalk from pseudonyms to patients is the only means of re-identification, and is stored only
next to the key.
"""

VERSION = 1
"""Version of the search for burned-in text and of its blanking. If it is increased, the next update of a dataset
repeats both.
"""
