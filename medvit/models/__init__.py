"""Backbone and head together: models of images and of slides, and the embeddings of tiles between them."""
