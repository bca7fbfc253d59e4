"""Files of a vLLM of a few lines, before a patch and after it."""

A, B, NEW = "vllm/a.py", "vllm/sub/b.py", "vllm/sub/new.py"
A0 = "one = 1\ntwo = 2\n\nthree = 3\n"
A1 = "one = 1\ntwo = 22\n\nthree = 3\nfour = 4\n"
A2 = "zero = 0\none = 1\ntwo = 22\n\nthree = 3\nfour = 4\n"
B0 = "def b():\n    return 'old'\n"
B1 = "def b():\n    return 'new'\n"

BEFORE = {A: A0, B: B0, NEW: None, "tests/test_a.py": None}
AFTER = {A: A1, B: B1, NEW: "here = True\n", "tests/test_a.py": "def test_a(): ...\n"}
FIRST = "0001-change-it"
SECOND = "0002-on-top"
