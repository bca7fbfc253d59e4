"""What is hooked in vLLM (tables) and how (one installer).

table.py         a row, and what becomes of it
wrap.py          the wrappers: timed calls that never change what vLLM sees
installer.py     resolves rows, wraps on import, reports, undoes
session_start.py joins or starts the session when an engine is constructed
api_server.py    table and advice of the API server
engine_core.py   table and advice of EngineCore
worker.py        table and advice of the workers
loop_lag.py      lag of the API server's event loop, by a timer
gil.py           contention for the GIL, where it is asked for
"""
