"""Prediction in bounded memory: label maps by bricks, and ways to continue if memory is short."""
