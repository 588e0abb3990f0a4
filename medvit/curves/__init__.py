"""Curves of the score over the number of labels, by initial weights and by fine-tuning method, under a fixed protocol.

An arm is a choice of initial weights, such as `scratch` (random) or `pretrained`; it is trained with each fine-tuning
method. A draw is a random set of labeled training patients, and an amount is the size of that set. The protocol:

1. The settings of every arm are chosen on training patients alone, and written to a file before a test label is read.
2. Draws are stratified by class. Within a draw, the patients of a smaller amount are also in every larger amount. The
   number of steps is fixed, so no labels outside of the draw are used for early stopping.
3. Every arm is tuned on the same grid of settings. A simple baseline is reported for comparison.
4. An effect is the paired difference between two scores, averaged over draws and test patients. Its interval is a
   bootstrap that resamples draws and test patients together.
"""
