"""What the operations share, without triton."""
