"""Ensembles: folds of patients, and training of one model per fold and seed."""
