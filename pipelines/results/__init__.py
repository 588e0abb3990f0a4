"""Code of the stages that judge and use finished models: baselines, probes, comparison, search and drift."""
