"""Losses as functions of logits and targets."""
