"""Prompts that the default predictor learns from beside the listed ones, and their lengths."""
