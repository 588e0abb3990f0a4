"""Rarity of texts: a rare text is unlikely to occur anywhere but in its source.

These are not rare: numbers of fewer than `MIN_DIGITS` digits, words of fewer than `MIN_LETTERS` letters, imaging terms,
names that programs number consecutively, and words that medvit itself writes (`medvit.audit.own_words`).
"""

from __future__ import annotations

import re

from medvit.audit.own_words import OWN_TEXT, OWN_WORDS
from medvit.deidentification.vocabulary import is_common, words_of

MIN_DIGITS, MIN_LETTERS, MIN_SIGNS = 5, 4, 2
"""Minimum length of a rare number, of a rare word in ASCII letters, and of a rare word with other letters."""
MIN_PHRASE = 6
MIN_PARTED_DIGITS, MAX_NUMBER = 3, 24
"""Minimum digits and maximum length of a patient or study number that is written in parts, such as `MRN-4711-88`."""
LONG_WORD = 7
"""Minimum letters of a word that is searched for inside longer words, too; shorter ones are found only as whole
words.
"""
_COUNTED = re.compile(
    r"(?:im|img|image|i|slice|ser|series|se|study|st|case|patient|frame|vol|scan|x|z|mr|ct|dx|us)?0*\d{1,6}"
)
"""Names that programs number consecutively, such as `img0012`."""


def is_rare(word: str) -> bool:
    """Return whether a word, in lower case, is rare: unlikely to occur anywhere but in its source."""
    if is_common(word) or (_COUNTED.fullmatch(word) and len(re.sub(r"\D|^0+", "", word)) < MIN_DIGITS):
        return False
    if word.isdigit():
        return len(word.lstrip("0")) >= MIN_DIGITS
    if word in OWN_WORDS or (len(word) >= LONG_WORD and word in OWN_TEXT):
        return False
    return len(word) >= (MIN_LETTERS if word.isascii() else MIN_SIGNS)


def is_number_in_parts(text: str) -> bool:
    """Return whether a text is one number whose parts are too short to search for, as in `MRN-4711-88`."""
    words = words_of(text)
    num_digits = sum(map(str.isdigit, text))
    is_long = num_digits >= MIN_DIGITS or (num_digits >= MIN_PARTED_DIGITS and len("".join(words)) >= MIN_PHRASE)
    return is_long and len(words) > 1 and len(text) <= MAX_NUMBER


def identifying_part(text: str) -> str:
    """Return the words of a text that may be names or identifiers, joined by spaces.

    These are the words that begin with a capital letter, and the words that contain a digit.
    """
    return " ".join(word for word in re.findall(r"[^\W_]+", text) if word[0].isupper() or re.search(r"\d", word))
