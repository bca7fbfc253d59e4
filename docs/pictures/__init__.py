"""Pictures of the dashboards, drawn from their files and from a recorded run; no Grafana drew them.

`python -m docs.pictures.record` records the run, `make docs` draws (`docs/pictures/dashboard.py`).
"""
