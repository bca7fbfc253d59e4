"""Patches of vLLM itself, applied to an installed package and taken back, always whole."""
