"""Code of the stages: each file is one stage, combined from packages of medvit."""
