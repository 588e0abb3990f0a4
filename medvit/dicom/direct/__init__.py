"""Direct parser of well-formed DICOM data sets; all other files are left to pydicom.

The contract. What is read here equals what pydicom reads (a fuzz in tests/dicom holds the two equal), at a tenth of the
time: 0.07 to 0.18 ms of CPU a header instead of 0.8 to 1.6. What is unusual in any way raises `Unusual` or gives None.
"""
