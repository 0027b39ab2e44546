"""What patience and share cost and bound, in a simulated queue."""
