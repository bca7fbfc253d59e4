"""Fixed-size records into shared memory: what vLLM's processes do, and all that they do.

`vllm_codesign.recorder.active` is the recorder of this process; the rest of the package is
the format (`layout`), the two ends of a ring (`ring`, `reader`) and the folder they live in
(`session`).
"""
