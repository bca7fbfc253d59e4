"""What the exporter samples beside the records: each sampler in a module, all of them in `every`.

every.py      starts them, asks them once a second, and drops one that raises
workers.py    totals of the workers' calls, from their records
loop_lag.py   lag of the API servers' event loops, from their records
gil.py        contention for the GIL, from records that `CODESIGN_GIL=1` adds
own.py        what the exporter itself costs
threads.py    CPU time, run-queue wait and context switches, from /proc
host.py       affinity, NUMA nodes and governors, for `run.json`
gpu.py        telemetry of the GPUs, in a thread of its own
gpu_nvml.py   ... as nvidia-ml-py answers
gpu_amdsmi.py ... as amdsmi answers
"""
