"""The recipes: each file is one stage on one screen, made of medvit's parts."""
