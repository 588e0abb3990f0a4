"""Direct parser of well-formed DICOM data sets; pydicom reads all other files.

The results equal those of pydicom, as a fuzz test in tests/dicom verifies. The parser takes a tenth of the time: 0.07
to 0.18 ms of CPU time per header instead of 0.8 to 1.6 ms. For anything unusual, the parser raises `Unusual` or returns
None.
"""
