"""A vLLM plugin that makes every encode last longer without taking a core for it.

Threads that sleep side by side do not slow one another down, nor anybody else: so a machine of two
cores shows what encodes in parallel do to the rest of the server where there are cores enough.

    PYTHONPATH=benchmarks/sleeping_tokenizer VLLM_PLUGINS=codesign,sleeping_tokenizer \\
        SLEEP_IN_TOKENIZER=0.025 vllm serve MODEL

SLEEP_IN_TOKENIZER is in seconds, for each call of a Hugging Face tokenizer. The tests' plugin
sleeps in vLLM's own method (`tests/support/plugin.py`), which 0.19 does not call for a chat.
"""

import os
import time


def register():
    from transformers import PreTrainedTokenizerBase

    try:
        seconds = float(os.environ["SLEEP_IN_TOKENIZER"])
    except (KeyError, ValueError):
        raise SystemExit("SLEEP_IN_TOKENIZER: set it to seconds, such as 0.025") from None
    encode = PreTrainedTokenizerBase.__call__

    def slowly(self, *args, **kwargs):
        time.sleep(seconds)
        return encode(self, *args, **kwargs)

    PreTrainedTokenizerBase.__call__ = slowly
