"""Prediction in bounded memory: label maps by bricks, what to do if memory is short, and estimates before a run."""
