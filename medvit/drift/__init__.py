"""Drift: differences between two sets of images, such as two months or sites, in embeddings, attributes and scores."""
