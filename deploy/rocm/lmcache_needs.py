"""Print what a wheel of LMCache asks for and this environment lacks, one requirement a line.

    python3 lmcache_needs.py /wheels/lmcache-0.5.6-*.whl > needs.txt

A package that is here stays as it is: LMCache's upper bounds (numpy, protobuf, OpenTelemetry,
prometheus_client) are older than what vLLM comes with, and it runs beyond them. One that is
too old for it ends this with status 1, because nothing of the image is to be replaced.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

CUDA_ONLY = ("cuda-", "cufile-", "cupy-cuda", "nixl", "nvtx")
"""Beginnings of names. LMCache imports these only where there is CUDA, or does without.
`cupy-rocm-7-0`, which a wheel that is built for HIP asks for in their place, is needed."""

LEFT_OUT = (
    "torch",  # the image's or none
    "setuptools",
    "setuptools-scm",  # these two only build
    "grpcio-observability",  # for metrics of gRPC; wants grpcio in exactly one version
    "awscrt",  # for keeping blocks in S3
    "google-api-core",
    "google-cloud-bigtable",  # for keeping blocks in Bigtable
)
"""What LMCache does without, as in requirements/lmcache.in."""


def wanted(wheel: str) -> Iterator[Requirement]:
    """The wheel's requirements for this Python, extras and the packages above left out."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        headers = Parser().parsestr(archive.read(name).decode(), headersonly=True)
    for line in headers.get_all("Requires-Dist") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(requirement.name)
        if name not in LEFT_OUT and not name.startswith(CUDA_ONLY):
            yield requirement


def lower_bounds(requirement: Requirement) -> SpecifierSet:
    return SpecifierSet(
        ",".join(str(s) for s in requirement.specifier if s.operator in (">=", ">"))
    )


def needs(requirements: Iterator[Requirement], installed: dict[str, str]) -> list[str]:
    """Those that are not installed, without upper bounds; raise for what is too old."""
    lacking = []
    for requirement in requirements:
        bounds = lower_bounds(requirement)
        version = installed.get(canonicalize_name(requirement.name))
        if version is None:
            lacking.append(f"{requirement.name}{bounds}")
        elif not bounds.contains(version, prereleases=True):
            raise SystemExit(
                f"lmcache_needs: {requirement.name} {version} is in the image and LMCache asks for "
                f"{bounds}: choose another VLLM_TAG or LMCACHE_VERSION"
            )
    return sorted(lacking)


if __name__ == "__main__":
    here: dict[str, str] = {canonicalize_name(d.name): d.version for d in metadata.distributions()}
    print("\n".join(needs(wanted(sys.argv[1]), here)))
