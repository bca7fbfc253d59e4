"""deploy/compose as `docker compose config` reads it, and whether its files know each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import (
    COLLECTOR,
    COMPOSE,
    DEPLOY,
    PROFILES,
    ROOT,
    Json,
    compose,
    environment,
    load,
    merged,
    project,
    telemetry_address,
)
from vllm_codesign import settings
from vllm_codesign.exporter import otlp_settings

CLICKHOUSE = {
    "files": ("compose.yaml", "clickhouse.yaml"),
    "environ": {"CLICKHOUSE_PASSWORD": "from the shell"},
}
ALWAYS = {"collector", "tempo", "jaeger", "prometheus", "grafana"}


def _ports(service: Json) -> set[tuple[str | None, int, int]]:
    return {
        (port.get("host_ip"), int(port["published"]), port["target"])
        for port in service.get("ports", ())
    }


@pytest.fixture(params=PROFILES)
def services(request: pytest.FixtureRequest) -> dict[str, Json]:
    found: dict[str, Json] = project(request.param)["services"]
    return found


def _vllm(services: dict[str, Json]) -> Json:
    (name,) = set(services) - ALWAYS
    return services[name]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_is_one_server_and_everything_to_look_at_it_with(profile: str) -> None:
    assert set(project(profile)["services"]) == {*ALWAYS, f"vllm-{profile}"}


def test_clickhouse_is_there_only_when_asked_for() -> None:
    with_file = project("cpu", **CLICKHOUSE)["services"]
    assert set(with_file) == {*ALWAYS, "vllm-cpu"}
    both = project("cpu", "clickhouse", **CLICKHOUSE)["services"]
    assert set(both) == {*ALWAYS, "vllm-cpu", "clickhouse"}


def test_clickhouse_has_the_password_of_the_shell_or_does_not_start() -> None:
    found = project("cpu", "clickhouse", **CLICKHOUSE)["services"]
    for name in ("clickhouse", "collector"):
        assert found[name]["environment"]["CLICKHOUSE_PASSWORD"] == "from the shell"
    without = compose("cpu", "clickhouse", files=CLICKHOUSE["files"])
    assert without.returncode == 1
    assert "set it to a password of your own" in without.stderr


def test_every_port_is_published_on_loopback_and_in_the_readme(services: dict[str, Json]) -> None:
    ports = {port for service in services.values() for port in _ports(service)}
    assert {host for host, _, _ in ports} == {"127.0.0.1"}
    assert all(published == target for _, published, target in ports)
    readme = (DEPLOY / "README.md").read_text()
    rows = {int(p) for p in re.findall(r"^\| `127\.0\.0\.1:(\d+)` \|", readme, re.M)}
    clickhouse = {8123}
    assert rows == {port for _, port, _ in ports} | clickhouse


def test_what_is_mounted_is_there_and_cannot_be_written(services: dict[str, Json]) -> None:
    binds = [v for s in services.values() for v in s.get("volumes", ()) if v["type"] == "bind"]
    assert len(binds) == 10
    for bind in binds:
        assert Path(bind["source"]).exists(), bind["source"]
        assert bind["read_only"], bind
    named = {v["source"] for s in services.values() for v in s["volumes"] if v["type"] == "volume"}
    assert named == {"models", "captures", "tempo", "prometheus", "grafana"}


def test_everything_says_whether_it_is_well(services: dict[str, Json]) -> None:
    assert {n for n, s in services.items() if "healthcheck" not in s} == {"collector"}
    for name, service in services.items():
        assert service["restart"] == "unless-stopped"
        for needed, how in service.get("depends_on", {}).items():
            well = how["condition"] == "service_healthy"
            assert not well or "healthcheck" in services[needed], (name, needed)


def test_the_server_has_what_the_plugin_needs(services: dict[str, Json]) -> None:
    server = _vllm(services)
    environ = {k: v for k, v in server["environment"].items() if v is not None}
    found, problems = settings.load(environ)
    assert problems == []
    assert (found.plugins, found.store) == (("codesign",), Path("/captures"))
    assert (found.metrics_host, found.metrics_port) == ("0.0.0.0", 9464)
    assert otlp_settings.check(environ) == []
    sent, _ = otlp_settings.read(environ)
    assert sent is not None
    assert sent.endpoint == "http://collector:4317"
    assert {v["target"] for v in server["volumes"]} == {"/captures", "/root/.cache/huggingface"}
    assert int(server["shm_size"]) == 8 << 30
    assert server["networks"]["default"]["aliases"] == ["vllm"]
    assert server["environment"]["HF_TOKEN"] is None


@pytest.mark.parametrize("profile", PROFILES)
def test_the_image_is_built_from_a_file_that_is_there(profile: str) -> None:
    build = project(profile)["services"][f"vllm-{profile}"]["build"]
    context = Path(build["context"])
    assert context == ROOT
    dockerfile = (context / build["dockerfile"]).read_text()
    known = set(re.findall(r"^ARG (\w+)", dockerfile, re.M))
    assert set(build["args"]) <= known


def test_each_profile_has_its_device() -> None:
    cpu, cuda, rocm = (project(p)["services"][f"vllm-{p}"] for p in PROFILES)
    assert "deploy" not in cpu
    (gpus,) = cuda["deploy"]["resources"]["reservations"]["devices"]
    assert (gpus["driver"], gpus["capabilities"]) == ("nvidia", ["gpu"])
    assert {d["source"] for d in rocm["devices"]} == {"/dev/kfd", "/dev/dri"}


def _collector(*more: str) -> Json:
    files = [COLLECTOR / "agent.yaml", COMPOSE / "one-machine.yaml"]
    return merged(*map(load, files), *(load(COLLECTOR / name) for name in more))


@pytest.mark.parametrize("more", [(), ("clickhouse.yaml",)])
def test_the_collectors_pipelines_are_made_of_what_it_has(more: tuple[str, ...]) -> None:
    found = _collector(*more)
    connectors = set(found["connectors"])
    for pipeline in found["service"]["pipelines"].values():
        assert set(pipeline["receivers"]) <= set(found["receivers"]) | connectors
        assert set(pipeline.get("processors", ())) <= set(found["processors"])
        assert set(pipeline["exporters"]) <= set(found["exporters"]) | connectors


def test_every_trace_goes_to_both_and_none_is_sampled() -> None:
    found = _collector()
    traces = found["service"]["pipelines"]["traces"]
    assert traces["exporters"] == ["span_metrics", "otlp_grpc/tempo", "otlp_grpc/jaeger"]
    assert not [p for p in traces["processors"] if "sampl" in p]


def _listens(node: Any) -> set[int]:
    """Ports that a configuration of Tempo, Jaeger or the Collector listens on."""
    if isinstance(node, dict):
        own = {v for k, v in node.items() if k.endswith("listen_port")}
        return own.union(*(_listens(v) for v in node.values())) if node else own
    if isinstance(node, str) and (port := re.fullmatch(r"(?:0\.0\.0\.0|\S+}):(\d+)", node)):
        return {int(port[1])}
    return set()


def _listening() -> dict[str, set[int]]:
    agent = _listens({k: v for k, v in _collector().items() if k != "service"})
    environ = project("cpu")["services"]["collector"].get("environment") or {}
    host, telemetry = telemetry_address(_collector(), environ)
    assert host == "0.0.0.0"
    return {
        "collector": agent | {telemetry},
        "tempo": _listens(load(COMPOSE / "tempo.yaml")),
        "jaeger": _listens(load(COMPOSE / "jaeger.yaml")),
        "vllm": {8000, settings.DEFAULT_METRICS_PORT},
        "prometheus": {9090},
        "clickhouse": {8123, 9000},
    }


def test_whoever_is_called_listens_there() -> None:
    listening = _listening()
    files = [*COMPOSE.rglob("*.yaml"), *COMPOSE.rglob("*.yml")]
    called = {
        (path.name, host, int(port))
        for path in files
        for host, port in re.findall(rf"\b({'|'.join(listening)}):(\d{{4,5}})\b", path.read_text())
    }
    assert len(called) == 11
    assert [c for c in called if c[2] not in listening[c[1]]] == []


def test_whoever_is_published_listens_there() -> None:
    listening = _listening() | {"grafana": {3000}}
    for name, service in project("cpu")["services"].items():
        targets = {target for _, _, target in _ports(service)}
        assert targets <= listening["vllm" if name.startswith("vllm-") else name], name


def test_a_variable_that_a_configuration_reads_is_set_or_has_a_default() -> None:
    found = project("cpu", "clickhouse", **CLICKHOUSE)["services"]["collector"]
    mounted = [Path(v["source"]) for v in found["volumes"]]
    assert {m.name for m in mounted} == {"agent.yaml", "one-machine.yaml", "clickhouse.yaml"}
    paths = [v["target"] for v in found["volumes"]]
    assert found["command"] == [f"--config={path}" for path in paths]
    for path in mounted:
        text = path.read_text()
        needed = {n for n in environment(text) if f"${{env:{n}}}" in text}
        assert needed <= set(found["environment"]), path


def test_a_server_outside_of_compose_is_scraped_and_heard() -> None:
    services = project(files=("compose.yaml", "own-server.yaml"))["services"]
    assert set(services) == ALWAYS
    # `vllm`, which Prometheus scrapes, is the host; nothing else in compose is called so.
    assert services["prometheus"]["extra_hosts"] == ["vllm=host-gateway"]
    targets = {
        target
        for job in load(COMPOSE / "prometheus.yml")["scrape_configs"]
        for each in job["static_configs"]
        for target in each["targets"]
    }
    assert {"vllm:9464", "vllm:8000"} <= targets
    assert _ports(services["collector"]) == {("127.0.0.1", 4317, 4317)}
    receiver = load(COLLECTOR / "agent.yaml")["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"]
    assert receiver.endswith(":4317")
    readme = (DEPLOY / "README.md").read_text()
    assert "-f deploy/compose/own-server.yaml up --wait" in readme
