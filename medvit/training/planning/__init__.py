"""Planning of a training: the cost of a few measured steps, scaled up to the whole run, in a table."""
