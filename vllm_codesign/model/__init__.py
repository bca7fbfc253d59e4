"""The types that everything above speaks: traces as they are read, runs as they are written."""
