#!/usr/bin/env bash
# Builds Jaeger and the OpenTelemetry Collector once, into .cache/backends: build.sh FOLDER
# What each is built from stands in go.mod and collector.yaml; a change of these builds anew.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
into=$(cd "$1" && pwd)

if ! command -v go >/dev/null; then
    echo "build.sh: Go is not installed: https://go.dev/dl has it" >&2
    exit 1
fi

built() { # NAME FILE...: whether NAME was made of exactly these
    [ -x "$into/$1" ] && [ "$(cat "$into/$1.made-of" 2>/dev/null)" = "$(cat "${@:2}" | sha256sum)" ]
}

made() { # TEMPORARY NAME FILE...
    cat "${@:3}" | sha256sum >"$into/$2.made-of"
    mv "$into/$1" "$into/$2"
}

if ! built jaeger "$here/go.mod" "$here/go.sum"; then
    echo "building Jaeger: 4 to 7 min on a machine that has never done it"
    (cd "$here" && go build -trimpath -ldflags "-s -w" -o "$into/.jaeger" \
        github.com/jaegertracing/jaeger/cmd/jaeger)
    made .jaeger jaeger "$here/go.mod" "$here/go.sum"
fi

if ! built otelcol "$here/collector.yaml"; then
    echo "building the Collector: 2 to 4 min on a machine that has never done it"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # The builder writes below the folder that it is called in.
    cp "$here/collector.yaml" "$work/"
    # Of a module outside: without a go.mod around it.
    (cd "$work" && go run go.opentelemetry.io/collector/cmd/builder@v0.161.0 --config collector.yaml)
    cp "$work/_build/otelcol" "$into/.otelcol"
    made .otelcol otelcol "$here/collector.yaml"
fi
