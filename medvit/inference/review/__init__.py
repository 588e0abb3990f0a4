"""Review of a batch: why series were taken, results that a person should look at first, and a page of outcomes."""
