"""A file for `codesign bench --scenarios` that takes a fake server no time."""

SCENARIO_FILE = """
[[scenario]]
name = "tiny"
concurrency = 2
prompt_tokens = 30
max_tokens = 3
repeats = 2
"""
