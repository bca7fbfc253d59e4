"""deploy/kubernetes as kustomize builds it, and whether its objects know each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import k8s_attributes, service_attributes

from tests.deploy.files import (
    COLLECTOR,
    KUBERNETES,
    PROFILES,
    Json,
    load,
    manifests,
    telemetry_address,
)
from vllm_codesign import settings
from vllm_codesign.exporter import otlp_settings

GPUS = {"cpu": {}, "cuda": {"nvidia.com/gpu": "1"}, "rocm": {"amd.com/gpu": "1"}}


@cache
def _built(overlay: str) -> tuple[Json, ...]:
    return tuple(manifests(KUBERNETES / "overlays" / overlay))


@pytest.fixture(params=PROFILES)
def objects(request: pytest.FixtureRequest) -> tuple[Json, ...]:
    return _built(request.param)


def _kind(objects: tuple[Json, ...], kind: str) -> dict[str, Json]:
    return {o["metadata"]["name"]: o for o in objects if o["kind"] == kind}


def _one(objects: tuple[Json, ...], kind: str, name: str) -> Json:
    return _kind(objects, kind)[name]


def _pods(objects: tuple[Json, ...]) -> dict[str, Json]:
    """Pod templates by the name of what makes them."""
    kinds = ("Deployment", "DaemonSet", "StatefulSet")
    return {n: o["spec"]["template"] for kind in kinds for n, o in _kind(objects, kind).items()}


def _container(pod: Json) -> Json:
    (container,) = pod["spec"]["containers"]
    return container


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi|MiB)", quantity).groups()  # type: ignore[union-attr]
    return int(number) << {"M": 20, "G": 30}[unit[0]]


def _matches(selector: Json, pod: Json) -> bool:
    return selector.items() <= pod["metadata"]["labels"].items()


def test_what_there_is(objects: tuple[Json, ...]) -> None:
    assert set(_pods(objects)) == {"vllm", "codesign-agent", "codesign-gateway"}
    assert set(_kind(objects, "Namespace")) == {"vllm-codesign"}
    others = [o for o in objects if o["kind"] != "Namespace"]
    assert {o["metadata"]["namespace"] for o in others} == {"vllm-codesign"}


@pytest.mark.parametrize("overlay", PROFILES)
def test_each_overlay_has_its_image_and_its_device(overlay: str) -> None:
    container = _container(_pods(_built(overlay))["vllm"])
    assert container["image"].startswith(f"vllm-codesign-{overlay}:")
    limits = {k: v for k, v in container["resources"]["limits"].items() if k != "memory"}
    assert limits == GPUS[overlay]


def test_the_exporter_is_in_the_servers_container(objects: tuple[Json, ...]) -> None:
    pod = _pods(objects)["vllm"]["spec"]
    assert len(pod["containers"]) == 1
    assert "initContainers" not in pod
    volumes = {v["name"]: v for v in pod["volumes"]}
    mounts = {m["mountPath"]: volumes[m["name"]] for m in _container({"spec": pod})["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert {"/captures", "/models", "/home/vllm", "/tmp"} < set(mounts)


def _environ(container: Json) -> dict[str, str]:
    """As the kubelet fills it in: a variable knows those before it, what comes from the node or a
    secret is given a value here."""
    found: dict[str, str] = {}
    for variable in container["env"]:
        if (source := variable.get("valueFrom")) is not None:
            assert set(source) <= {"fieldRef", "secretKeyRef"}
            found[variable["name"]] = "10.0.0.7" if variable["name"] == "NODE_IP" else "given"
            continue
        value = re.sub(r"\$\((\w+)\)", lambda m: found[m[1]], variable["value"])
        found[variable["name"]] = value
    return found


def test_the_server_has_what_the_plugin_needs(objects: tuple[Json, ...]) -> None:
    container = _container(_pods(objects)["vllm"])
    environ = _environ(container)
    found, problems = settings.load(environ)
    assert problems == []
    assert found.plugins == ("codesign",)
    assert (found.metrics_host, found.metrics_port) == ("0.0.0.0", 9464)
    assert str(found.store) in {m["mountPath"] for m in container["volumeMounts"]}
    assert otlp_settings.check(environ) == []
    sent, _ = otlp_settings.read(environ)
    assert sent is not None
    assert sent.endpoint == "http://10.0.0.7:4317"
    known = {
        value
        for module in (k8s_attributes, service_attributes)
        for value in vars(module).values()
        if isinstance(value, str)
    }
    assert len(sent.resource) == 7
    assert set(sent.resource) <= known
    assert sent.resource["service.instance.id"] == "given.given.vllm"


def test_the_store_fits_into_its_volume(objects: tuple[Json, ...]) -> None:
    volumes = {v["name"]: v for v in _pods(objects)["vllm"]["spec"]["volumes"]}
    assert _bytes(volumes["captures"]["emptyDir"]["sizeLimit"]) > 2 << 30


def test_nobody_has_more_rights_than_it_needs(objects: tuple[Json, ...]) -> None:
    assert not [o["kind"] for o in objects if "Role" in o["kind"]]
    accounts = _kind(objects, "ServiceAccount")
    for name, pod in _pods(objects).items():
        spec, container = pod["spec"], _container(pod)
        assert spec["serviceAccountName"] == name
        assert accounts[name]["automountServiceAccountToken"] is False
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= set(container["resources"])
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    collectors = [p for n, p in _pods(objects).items() if n.startswith("codesign-")]
    for pod in collectors:
        assert _container(pod)["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("name", ["agent", "gateway"])
def test_a_collector_has_the_configuration_of_deploy(objects: tuple[Json, ...], name: str) -> None:
    pod = _pods(objects)[f"codesign-{name}"]
    container = _container(pod)
    (volume,) = pod["spec"]["volumes"]
    (mount,) = container["volumeMounts"]
    data = _one(objects, "ConfigMap", volume["configMap"]["name"])["data"]
    assert data[f"{name}.yaml"] == (COLLECTOR / f"{name}.yaml").read_text()
    for argument in container["args"]:
        folder, _, file = argument.removeprefix("--config=").rpartition("/")
        assert folder == mount["mountPath"]
        assert file in data


def _ports_of(configuration: Any) -> set[int]:
    if isinstance(configuration, dict):
        return set().union(*map(_ports_of, configuration.values()))
    if isinstance(configuration, str) and (port := re.fullmatch(r"\S+}:(\d+)", configuration)):
        return {int(port[1])}
    return set()


@pytest.mark.parametrize("name", ["agent", "gateway"])
def test_a_collector_listens_where_its_container_says(objects: tuple[Json, ...], name: str) -> None:
    container = _container(_pods(objects)[f"codesign-{name}"])
    configuration = load(COLLECTOR / f"{name}.yaml")
    own = {k: configuration[k] for k in ("receivers", "extensions")}
    own["metrics"] = configuration["exporters"].get("prometheus", {})
    _, telemetry = telemetry_address(configuration, _environ(container))
    assert {p["containerPort"] for p in container["ports"]} == _ports_of(own) | {telemetry}


@pytest.mark.parametrize("name", ["agent", "gateway"])
def test_a_collectors_own_metrics_can_be_scraped(objects: tuple[Json, ...], name: str) -> None:
    """From its address and its port over the policy to the scrape's relabelling."""
    pod = _pods(objects)[f"codesign-{name}"]
    configuration = load(COLLECTOR / f"{name}.yaml")
    host, port = telemetry_address(configuration, _environ(_container(pod)))
    assert host == "0.0.0.0", "Prometheus comes from another pod"
    ports = {p["name"]: p["containerPort"] for p in _container(pod)["ports"]}
    assert ports["telemetry"] == port
    policy = _one(objects, "NetworkPolicy", f"codesign-{name}")["spec"]
    (rule,) = (r for r in policy["ingress"] if {"port": "telemetry"} in r["ports"])
    (sender,) = rule["from"]
    assert sender["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "monitoring"
    }
    kept = {
        job
        for job, each in _scraped(pod).items()
        if ("telemetry", pod["metadata"]["labels"]["app.kubernetes.io/name"]) in each
    }
    assert kept == {"codesign-collectors"}


def _scraped(pod: Json) -> dict[str, set[tuple[str, str]]]:
    """Names of the pod's ports that each job of prometheus.yml keeps, with the pod's name."""
    name = pod["metadata"]["labels"]["app.kubernetes.io/name"]
    found: dict[str, set[tuple[str, str]]] = {}
    for scrape in load(KUBERNETES / "prometheus.yml")["scrape_configs"]:
        (keep,) = (r for r in scrape["relabel_configs"] if r.get("action") == "keep")
        for port in _container(pod)["ports"]:
            known = {
                "__meta_kubernetes_pod_label_app_kubernetes_io_name": name,
                "__meta_kubernetes_pod_container_port_name": port["name"],
            }
            value = ";".join(known[label] for label in keep["source_labels"])
            if re.fullmatch(keep["regex"], value):
                found.setdefault(scrape["job_name"], set()).add((port["name"], name))
    return found


@pytest.mark.parametrize("name", ["agent", "gateway"])
def test_a_collector_refuses_spans_before_it_is_killed(
    objects: tuple[Json, ...], name: str
) -> None:
    container = _container(_pods(objects)[f"codesign-{name}"])
    limiter = load(COLLECTOR / f"{name}.yaml")["processors"]["memory_limiter"]
    limit = _bytes(container["resources"]["limits"]["memory"])
    collected = _bytes(_environ(container)["GOMEMLIMIT"])
    assert limiter["limit_mib"] << 20 <= collected < limit


def test_the_agents_find_every_gateway(objects: tuple[Json, ...]) -> None:
    host = _environ(_container(_pods(objects)["codesign-agent"]))["GATEWAY_HOST"]
    service = _one(objects, "Service", host)["spec"]
    assert service["clusterIP"] == "None"
    assert [p["port"] for p in service["ports"]] == [4317]
    stateful = _one(objects, "StatefulSet", "codesign-gateway")["spec"]
    assert stateful["serviceName"] == host
    assert stateful["replicas"] > 1
    resolver = load(COLLECTOR / "agent.yaml")["exporters"]["load_balancing"]["resolver"]
    assert resolver["dns"]["hostname"].startswith("${env:GATEWAY_HOST")


def test_the_node_agents_port_is_what_the_server_sends_to(objects: tuple[Json, ...]) -> None:
    ports = {p["name"]: p for p in _container(_pods(objects)["codesign-agent"])["ports"]}
    assert ports["otlp"]["hostPort"] == ports["otlp"]["containerPort"] == 4317
    assert [name for name, port in ports.items() if "hostPort" in port] == ["otlp"]


def _selected(objects: tuple[Json, ...], selector: Json) -> list[Json]:
    return [p for p in _pods(objects).values() if _matches(selector.get("matchLabels", {}), p)]


def test_selectors_select_and_named_ports_are_there(objects: tuple[Json, ...]) -> None:
    for kind in ("Deployment", "DaemonSet", "StatefulSet", "PodDisruptionBudget"):
        for name, found in _kind(objects, kind).items():
            assert len(_selected(objects, found["spec"]["selector"])) == 1, (kind, name)
    for name, service in _kind(objects, "Service").items():
        (pod,) = _selected(objects, {"matchLabels": service["spec"]["selector"]})
        names = {p["name"] for p in _container(pod)["ports"]}
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= names, name
    for pod in _pods(objects).values():
        container = _container(pod)
        probes = [v for k, v in container.items() if k.endswith("Probe")]
        assert len(probes) >= 2
        assert {p["httpGet"]["port"] for p in probes} <= {p["name"] for p in container["ports"]}


def _let_in(objects: tuple[Json, ...]) -> Iterator[tuple[str, str]]:
    for name, policy in _kind(objects, "NetworkPolicy").items():
        for rule in policy["spec"].get("ingress", ()):
            for port in rule["ports"]:
                yield name, port["port"]


def test_nothing_comes_in_but_what_is_named(objects: tuple[Json, ...]) -> None:
    policies = _kind(objects, "NetworkPolicy")
    assert policies["nothing-else"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    assert set(_let_in(objects)) == {
        ("vllm", "http"),
        ("vllm", "codesign"),
        ("codesign-agent", "otlp"),
        ("codesign-agent", "metrics"),
        ("codesign-agent", "telemetry"),
        ("codesign-gateway", "otlp"),
        ("codesign-gateway", "telemetry"),
    }
    for name, port in _let_in(objects):
        (pod,) = _selected(objects, policies[name]["spec"]["podSelector"])
        assert port in {p["name"] for p in _container(pod)["ports"]}
    (spans,) = (
        r for r in policies["codesign-gateway"]["spec"]["ingress"] if {"port": "otlp"} in r["ports"]
    )
    (sender,) = spans["from"]
    (pod,) = _selected(objects, sender["podSelector"])
    assert pod is _pods(objects)["codesign-agent"]
