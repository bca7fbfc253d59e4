"""The exporter: one process per server and host, `python -m vllm_codesign.exporter SESSION`.

collect.py    reads the rings of all producers, and knows which still live
facts.py      what the records of one request say, gathered by key
assemble.py   decides when a request is complete
build.py      turns the facts of a complete request into spans
queueing.py   splits waiting time by reason
otlp*.py      sends spans over OTLP
serve.py      the loop around all that, and its end
"""
