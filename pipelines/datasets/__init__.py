"""Code of the stages that work on finished datasets: search, compare, merge and export them."""
