"""Files of any kind: first bytes, limits for untrusted content, atomic writes.

The contract. Whatever reads a file of a source does so within `guard.decoding`, which turns the errors of decoders into
refusals that name no path and no patient. Whatever writes a file goes through `atomic`, or through `private` where only
its owner may read it.
"""
