"""Reading and writing of files of any kind: first bytes, limits for untrusted content, atomic writes.

All reads of source files run within `guard.decoding`, which converts the errors of decoders to refusals that name
neither a path nor a patient. All writes use `atomic`, or `private` for files that only their owner may read.
"""
