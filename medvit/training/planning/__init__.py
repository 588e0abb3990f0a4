"""Planning of a training run: the cost of a few measured steps, extrapolated to the whole run, as a table."""
