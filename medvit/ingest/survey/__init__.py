"""Survey of a source: its contents and possible training targets, from headers and file names alone.

A survey is made from a `Scan`, without reading pixels. It prints counts, sizes, DICOM codes, and words that cannot name
a person. Names of classes and folders are printed only if every word is an imaging term. Names of table columns are
printed only if the first line is certain to be a header. Cells of a table are never printed.
"""
