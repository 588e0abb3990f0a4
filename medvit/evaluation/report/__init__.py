"""The report of an evaluation: its page, figures, example images and summary."""
