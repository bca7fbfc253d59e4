"""vllm-codesign: where the time of a vLLM request goes, traced from inside.

Importing this package costs nothing: the entry point that vLLM calls is
`vllm_codesign.plugin.register`.
"""

__version__ = "0.1.0"
