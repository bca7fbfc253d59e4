"""What recording costs; see README.md."""
