"""What a capture says: the client's view and the server's truth, per scenario."""
