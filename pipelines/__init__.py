"""Recipes: each file is one stage, combined from rooms of medvit."""
