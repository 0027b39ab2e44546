"""What scoring a prompt costs: runtimes and baselines side by side, against the floor."""
