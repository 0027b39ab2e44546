"""What would an order gain on any traffic: vLLM's real scheduler in virtual time."""
