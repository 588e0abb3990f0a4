"""Operating points: thresholds chosen on the validation split, and their rates with intervals on the evaluated split.

`cases` turns an evaluation into cases that are positive or negative, with a score each. `choice` chooses thresholds,
`rates` computes sensitivity, specificity, predictive values and likelihood ratios with 95 % intervals, and `chosen`
puts these together. A threshold is never chosen on the images that it is evaluated on.
"""
