"""Files of any kind: first bytes, limits for untrusted content, atomic writes.

The contract. All reads of source files happen within `guard.decoding`, which turns the errors of decoders into
refusals that name no path and no patient. All writes go through `atomic`, or through `private` where only the owner
may read the file.
"""
