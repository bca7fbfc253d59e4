"""How LMCache's server is called and vLLM is told of it; it runs in the full tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllm_codesign.bench import lmcache_server
from vllm_codesign.bench.lmcache_server import LMCacheServer, check_installed
from vllm_codesign.model.errors import CodesignError


def test_vllm_is_told_the_port_it_listens_on(tmp_path: Path) -> None:
    server = LMCacheServer(
        1.5, engine_driven=True, log_path=tmp_path / "log", python=tmp_path / "bin" / "python"
    )
    command = " ".join(server.command)
    assert command.startswith(f"{tmp_path}/bin/lmcache server --port {server.kv_port} ")
    for part in ("--l1-size-gb 1.5", "--chunk-size 256", "--supported-transfer-mode engine_driven"):
        assert part in command
    flag, value = server.vllm_flags
    assert flag == "--kv-transfer-config"
    config = json.loads(value)
    assert config["kv_connector"] == "LMCacheMPConnector"
    assert config["kv_connector_extra_config"] == {"lmcache.mp.port": server.kv_port}
    assert server.url.endswith(str(server.port))
    assert server.kv_port != server.port


def test_on_a_gpu_lmcache_copies_as_it_likes(tmp_path: Path) -> None:
    server = LMCacheServer(
        1, engine_driven=False, log_path=tmp_path / "log", python=tmp_path / "python"
    )
    assert "--supported-transfer-mode" not in server.command


def test_without_lmcache_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmcache_server, "find_spec", lambda name: None)
    with pytest.raises(CodesignError, match=r"not installed here: install vllm-codesign\[lmcache"):
        LMCacheServer(1, engine_driven=True, log_path=tmp_path / "log")


def test_a_module_without_its_command_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(CodesignError, match=r"there is no command .*bin/lmcache"):
        check_installed(tmp_path / "bin" / "python")
