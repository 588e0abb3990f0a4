"""Survey of a source: its contents and possible training targets, from headers and file names alone.

The contract. A survey is made from a `Scan` and reads no pixels. It prints counts, sizes, DICOM codes, and words that
cannot name a person: names of classes and folders only if every word is an imaging term, names of columns only if the
first line of a table is sure to be a header, cells of a table never.
"""
