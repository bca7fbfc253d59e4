"""Load generation: a model to serve, a server to ask, prompts, requests and their timings."""
