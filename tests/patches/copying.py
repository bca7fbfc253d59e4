"""Run by vLLM 0.19.0's Python: do copies of its kinds of tokenizer encode as the originals do?"""

import copy
from pathlib import Path
from typing import Any

import mistral_common
from transformers.tokenization_mistral_common import MistralCommonTokenizer
from vllm.tokenizers.deepseek_v32 import get_deepseek_v32_tokenizer
from vllm.tokenizers.hf import get_cached_tokenizer
from vllm.tokenizers.mistral import MistralTokenizer

from tests.patches.stress import make_tokenizer


def check(name: str, original: Any) -> None:
    copied = copy.deepcopy(original)
    assert copied is not original
    assert type(copied).__name__ == type(original).__name__
    for text in ("shared between threads", "a server"):
        assert copied.encode(text) == original.encode(text) != []
    print(name)


def main() -> None:
    fast = make_tokenizer()
    check("Hugging Face", get_cached_tokenizer(fast))
    check("DeepSeek V3.2", get_cached_tokenizer(get_deepseek_v32_tokenizer(fast)))
    for file in sorted((Path(mistral_common.__file__).parent / "data").iterdir()):
        check(f"Mistral {file.name}", MistralTokenizer(MistralCommonTokenizer(str(file))))


if __name__ == "__main__":
    main()
