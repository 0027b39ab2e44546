"""What did ordering gain: a live benchmark on the real server, and its report."""
