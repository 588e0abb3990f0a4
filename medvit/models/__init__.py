"""Models: a backbone with its head, for images and for slides, and embeddings of tiles."""
