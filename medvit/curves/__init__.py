"""Curves of the score over the number of labels, by initial weights and by fine-tuning method, under a fixed protocol.

1. The settings of every arm are chosen on training patients alone, and written to a file before a test label is read.
2. Labels are drawn by patient and class; smaller amounts are within larger ones. Nothing but the labels of a draw
   chooses anything in it: the number of steps is fixed.
3. Every arm gets the same grid of settings, and a simple baseline is beside.
4. An effect is the paired difference, averaged over draws and test patients. Its interval resamples both together.
"""
