"""Golden outputs: outputs of all stages, from two states of the code, and their comparison."""
