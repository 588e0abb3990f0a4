"""Golden outputs: what all stages write, made by two states of the code and compared."""
