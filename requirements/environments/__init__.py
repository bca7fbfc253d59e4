"""The environments that `setup.py` builds. Standard library only.

paths.py        where things lie in the checkout
programs.py     what is run, said and raised
machine.py      what would only fail after gigabytes
uv.py           the program that installs, and what it has to be told
environment.py  one virtual environment, whole or made whole
with_vllm.py    those that serve
pins.py         those with a list of their own, and the lists
"""
