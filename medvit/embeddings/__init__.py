"""Embeddings of images: computed by a frozen backbone, stored as a table, compared by cosine or distance."""
