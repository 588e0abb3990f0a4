"""Metrics of survival predictions, over all images, one per module.

They are written in NumPy rather than taken from torchsurv, because a bootstrap computes them thousands of times:
torchsurv 0.2 takes 50 times as long for a C-index of 100 images, and 120 times for 500. Tests compare the values.
"""
