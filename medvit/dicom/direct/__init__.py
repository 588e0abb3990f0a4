"""Direct parser of well-formed DICOM data sets; pydicom reads all other files.

The contract. Results equal those of pydicom (held by a fuzz test in tests/dicom), in a tenth of the time: 0.07 to 0.18
ms of CPU per header instead of 0.8 to 1.6. Anything unusual raises `Unusual` or returns None.
"""
