"""Service that receives studies, predicts them, and sends results back, day and night.

An instance counts as received once it is on disk. A study is complete when no instance has arrived for a while, or when
all expected ones have; it is then predicted once for each model in force. A study that could be mixed up with another
one, or that changed, waits for a person. Everything that waits is listed with its reason.

Original identifiers are stored in the folder of the service, which only its owner can read. The log, the audit trail,
the metrics and the status page contain pseudonyms.
"""
