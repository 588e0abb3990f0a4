"""Models: a backbone with its head, for images and for slides; embeddings of tiles."""
