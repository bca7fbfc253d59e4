#!/usr/bin/env bash
# Builds what checks deploy/: build.sh FOLDER (2 min with Go on a machine that has never done it)
# compose and kustomize from Go modules as tools/go.mod pins them; Kubernetes' schemas from the
# Python package that tools/requirements.txt pins.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
into=$(cd "$1" && pwd)

if ! command -v go >/dev/null; then
    echo "build.sh: Go is not installed: https://go.dev/dl has it (1.24 or newer)" >&2
    exit 1
fi
made_of=$(cat "$here/build.sh" "$here"/tools/go.* "$here"/tools/compose/* "$here/tools/requirements.txt" \
    "$here/tools/prometheus-operator" | sha256sum)
if [ "$(cat "$into/made-of" 2>/dev/null)" = "$made_of" ]; then
    exit 0
fi
(cd "$here/tools" && go build -trimpath -ldflags "-s -w" -o "$into/" \
    ./compose sigs.k8s.io/kustomize/kustomize/v5)
"${PYTHON:-python3}" -m venv "$into/venv"
"$into/venv/bin/python" -m pip install --quiet --requirement "$here/tools/requirements.txt"
# Out of the operator's module, definitions of its objects: no code of it is built.
operator=$(cd "$into" && go mod download -json "$(cat "$here/tools/prometheus-operator")" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')
for objects in podmonitors prometheusrules; do
    cp "$operator/example/prometheus-operator-crd/monitoring.coreos.com_$objects.yaml" \
        "$into/$objects.yaml"
done
echo "$made_of" >"$into/made-of"
