"""Metrics: figures over all requests and steps, pushed over OTLP and read by Prometheus.

live.py        what the exporter's loop calls; nothing here may cost it a trace
board.py       sums and latest values, by metric and attributes
instruments.py the OpenTelemetry SDK's instruments over the board
histograms.py  buckets and exemplars
requests.py    what one request's trace adds
cache.py       what its KV caches add
steps.py       what one step adds
pools.py       the renderer pools, from their jobs
fleet.py       the device's time, by closed windows some seconds behind
open_work.py   what requests that have not ended do meanwhile
sampled.py     gauges from the samplers
losses.py      what is missing
carried.py     counters that go on where the exporter before stood
models.py      few names of models
push_settings.py, push.py     OTLP
prometheus.py, endpoint.py    `/metrics`

Counters begin at 0 in each exporter, as after any restart: what a killed one had counted is
not counted again. Those of losses go on: what was lost is of the whole session.
"""
