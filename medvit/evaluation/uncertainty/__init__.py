"""Uncertainty of an evaluated model: coverage of its prediction sets, and its metric if it abstains.

`conformal` computes prediction sets from patients that were used for nothing else, `coverage` counts how often they
contain the truth on the evaluated images, `abstention` has the metric of the patients with the most confident
predictions, and `section` puts these into the report.
"""
