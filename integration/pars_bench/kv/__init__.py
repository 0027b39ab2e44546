"""What an order by memory does on a small KV cache."""
