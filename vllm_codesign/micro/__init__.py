"""What single components cost, timed alone and off the serving path, and how that grows."""
