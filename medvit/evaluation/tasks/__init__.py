"""Metrics of each task with their intervals: one module per task."""
