"""Parts that the writers of DICOM objects share: texts, coded terms, references to the source, identifiers, packing."""
