"""Metrics of predictions, one a file: training, evaluation and probes compute each by the same definition.

A metric is a pure function of the truth, which comes first, and the prediction. It takes NumPy arrays and returns a
float, or an array with one value per class. It is NaN where it is undefined, as AUROC of a class without a case, and
never warns of that. The docstring of the file gives its range, whether higher is better, whether it is computed per
image or over all images, the task, and the source of the definition.

Metrics of classification are written in NumPy: a bootstrap computes them thousands of times, and a call of scikit-learn
spends nearly all of its time on checking the input. Tests compare each with scikit-learn or MONAI. Nothing heavier than
NumPy is imported before a function needs it. Adding a metric is adding a file and its test.
"""
