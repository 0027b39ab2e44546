"""Experiments on real response lengths: each reruns one table of ``docs/results/ranking.md``."""
