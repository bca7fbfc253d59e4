"""Every object against Kubernetes' own schemas, strictly: an unknown field is an error."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy.files import (
    COLLECTOR,
    DEPLOY,
    KUBERNETES,
    PROFILES,
    ROOT,
    TOOLS,
    Json,
    documents,
    kustomize,
    load,
    manifests,
    tool,
    yaml,
)

OLDEST, NEWEST = "1.30", "1.37"
README = DEPLOY / "README.md"


def _validated(text: str, version: str, folder: Path) -> tuple[int, str]:
    path = folder / "objects.yaml"
    path.write_text(text)
    command = [tool("venv/bin/kubernetes-validate", TOOLS, "test-deploy"), "--strict"]
    done = subprocess.run([*command, "-k", version, path], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("overlay", PROFILES)
def test_an_overlay_is_valid(overlay: str, version: str, tmp_path: Path) -> None:
    text = kustomize(KUBERNETES / "overlays" / overlay)
    code, said = _validated(text, version, tmp_path)
    assert code == 0, said
    assert said.count(" passed for resource ") == len(documents(text)) == 17


def test_a_field_that_does_not_exist_is_found(tmp_path: Path) -> None:
    text = kustomize(KUBERNETES / "overlays" / "cpu").replace("hostPort:", "hostport:")
    code, said = _validated(text, NEWEST, tmp_path)
    assert code == 1
    assert "hostport" in said


def _with(component: str, folder: Path) -> list[Json]:
    """The overlay for CUDA with a component, as a user adds it."""
    roots = {"resources": "overlays/cuda", "components": f"components/{component}"}
    lists = {k: [os.path.relpath(KUBERNETES / v, folder)] for k, v in roots.items()}
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(head | lists))
    return manifests(folder)


def test_with_clickhouse_it_is_valid_and_the_agent_has_both_files(tmp_path: Path) -> None:
    objects = _with("clickhouse", tmp_path)
    code, said = _validated(yaml.safe_dump_all(objects), NEWEST, tmp_path)
    assert code == 0, said
    (agent,) = (o for o in objects if o["kind"] == "DaemonSet")
    (container,) = agent["spec"]["template"]["spec"]["containers"]
    assert [a.rpartition("/")[2] for a in container["args"]] == ["agent.yaml", "clickhouse.yaml"]
    (volume,) = agent["spec"]["template"]["spec"]["volumes"]
    (data,) = (o["data"] for o in objects if o["metadata"]["name"] == volume["configMap"]["name"])
    assert data["clickhouse.yaml"] == (COLLECTOR / "clickhouse.yaml").read_text()
    secrets = {v["name"]: v["valueFrom"] for v in container["env"] if "valueFrom" in v}
    assert {v["secretKeyRef"]["name"] for v in secrets.values()} == {"clickhouse"}
    assert set(secrets) == {"CLICKHOUSE_ENDPOINT", "CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD"}


def test_pod_monitors_fit_the_operators_definition(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    version, schema = _definition("podmonitors")
    monitors = [o for o in _with("pod-monitor", tmp_path) if o["kind"] == "PodMonitor"]
    assert len(monitors) == 3
    for monitor in monitors:
        assert monitor["apiVersion"] == version
        jsonschema.validate(monitor, schema)
        monitor["spec"]["podMetricsEndpoints"][0]["relabeling"] = []
        with pytest.raises(jsonschema.ValidationError, match="relabeling"):
            jsonschema.validate(monitor, schema)


def test_the_readmes_rules_for_the_operator_fit_its_definition() -> None:
    """What its shell makes of the files, given to `cat` and not to kubectl."""
    jsonschema = pytest.importorskip("jsonschema")
    version, schema = _definition("prometheusrules")
    (shell,) = re.findall(r"(for file in rules alerts.*?done\n)", README.read_text(), re.S)
    shell = shell.replace("kubectl apply -f -", "{ echo ---; cat; }")
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    made = [o for o in documents(done.stdout) if o is not None]
    for found, name in zip(made, ("rules", "alerts"), strict=True):
        assert found["apiVersion"] == version
        assert found["kind"] == "PrometheusRule"
        assert found["metadata"]["labels"] == {"release": "RELEASE"}
        assert found["spec"] == load(DEPLOY / "prometheus" / f"{name}.yml")
        jsonschema.validate(found, schema)
        found["spec"]["groups"][0]["rule"] = []
        with pytest.raises(jsonschema.ValidationError, match="rule"):
            jsonschema.validate(found, schema)


def _definition(objects: str) -> tuple[str, Json]:
    """Version and schema of the operator's objects of a kind."""
    text = Path(tool(f"{objects}.yaml", TOOLS, "test-deploy")).read_text()
    # Go takes a flag anywhere, Python at the front alone.
    (version,) = yaml.safe_load(text.replace("^(?i)", "(?i)^"))["spec"]["versions"]
    schema: Json = version["schema"]["openAPIV3Schema"]
    _forbid_unknown(schema["properties"]["spec"])
    return f"monitoring.coreos.com/{version['name']}", schema


def _forbid_unknown(schema: Json) -> None:
    """The API server drops what a definition does not know; here it is an error."""
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    inner = list(schema.get("properties", {}).values())
    if "items" in schema:
        inner.append(schema["items"])
    for found in inner:
        _forbid_unknown(found)


def test_pod_monitors_scrape_ports_that_the_pods_have(tmp_path: Path) -> None:
    objects = _with("pod-monitor", tmp_path)
    pods = [o["spec"]["template"] for o in objects if "template" in o.get("spec", {})]
    jobs: dict[str, set[tuple[str, int]]] = {}
    for monitor in (o for o in objects if o["kind"] == "PodMonitor"):
        assert monitor["metadata"]["namespace"] == "vllm-codesign"
        labels = monitor["spec"]["selector"]["matchLabels"].items()
        (pod,) = (p for p in pods if labels <= p["metadata"]["labels"].items())
        (container,) = pod["spec"]["containers"]
        names = {p["name"]: p["containerPort"] for p in container["ports"]}
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            (job,) = (
                r["replacement"] for r in endpoint["relabelings"] if r["targetLabel"] == "job"
            )
            jobs.setdefault(job, set()).add(
                (pod["metadata"]["labels"]["app.kubernetes.io/name"], names[endpoint["port"]])
            )
    assert jobs == {
        "codesign": {("vllm", 9464)},
        "vllm": {("vllm", 8000)},
        "codesign-spans": {("codesign-agent", 8889)},
        "codesign-collectors": {("codesign-agent", 8888), ("codesign-gateway", 8888)},
    }


def test_what_the_readme_says_to_write_builds(tmp_path: Path) -> None:
    readme = README.read_text()
    (text,) = re.findall(r"kustomization\.yaml <<EOF\n(.*?)    EOF\n", readme, re.S)
    text = re.sub("^    ", "", text, flags=re.M)
    here = os.path.relpath(DEPLOY, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(text.replace("../deploy", here))
    objects = manifests(tmp_path)
    found = {
        o["kind"]: o["spec"]["template"]["spec"] for o in objects if "template" in o.get("spec", {})
    }
    assert [c["image"] for c in found["Deployment"]["containers"]] == [
        "REGISTRY/vllm-codesign-cuda:0.1.0"
    ]
    (gateway,) = found["StatefulSet"]["containers"]
    assert {"name": "TRACES_ENDPOINT", "value": "MY-TEMPO:4317"} in gateway["env"]
    monitors = [o for o in objects if o["kind"] == "PodMonitor"]
    assert len(monitors) == 3
    assert {o["metadata"]["labels"]["release"] for o in monitors} == {"RELEASE"}
