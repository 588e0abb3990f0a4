"""Survey of a source: what it holds and what training could learn from, by headers and names of files alone.

The contract. A survey is made of a `Scan` and reads no pixels. What it offers to be printed are counts, sizes, codes of
DICOM, and words that name nobody: names of classes and folders only where every word is one of imaging, names of
columns only where the first line of a table is sure to be a header, cells of a table never.
"""
