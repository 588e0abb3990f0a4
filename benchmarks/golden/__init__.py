"""Golden outputs: the outputs of all stages before and after a change of the code, and their comparison."""
