"""A command line is written down without what is secret in it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from vllm_codesign.recorder.command_line import secrets_in, without_secrets, without_userinfo


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        (["vllm", "serve", "m"], ["vllm", "serve", "m"]),
        (["--api-key", "s3cret", "--port", "1"], ["--api-key", "...", "--port", "1"]),
        (["--api-key=s3cret", "m"], ["--api-key=...", "m"]),
        (["--api-key", "one", "two", "--x"], ["--api-key", "...", "...", "--x"]),
        (["--API_KEY", "s3cret"], ["--API_KEY", "..."]),
        (["--hf-token=hf_abc"], ["--hf-token=..."]),
        (["--ssl-keyfile-password", "pw"], ["--ssl-keyfile-password", "..."]),
        (["--otlp-headers", "authorization=x"], ["--otlp-headers", "..."]),
        (["--hf-token"], ["--hf-token"]),
        (["--max-num-batched-tokens", "4096", "m"], ["--max-num-batched-tokens", "4096", "m"]),
        (["--skip-tokenizer-init", "m"], ["--skip-tokenizer-init", "m"]),
        (
            ["--kv-transfer-config.extra.api_key", "x"],
            ["--kv-transfer-config.extra.api_key", "..."],
        ),
        (["-cc", '{"max_tokens": 1}'], ["-cc", '{"max_tokens": 1}']),
        (
            ["--kv-transfer-config", '{"kv_connector_extra_config": {"api_key": "s3cret"}}'],
            ["--kv-transfer-config", "..."],
        ),
        (
            ['--hf-overrides={"auth_token": "s3cret"}'],
            ["--hf-overrides=..."],
        ),
        (["-cc", '{"Authorization": "Bearer x"}'], ["-cc", "..."]),
        (["s3://user:pw@host/model"], ["s3://...@host/model"]),
        (
            ["--otlp-traces-endpoint", "http://user:pw@host:4317"],
            ["--otlp-traces-endpoint", "http://...@host:4317"],
        ),
        (["--model=https://t0ken@host/m"], ["--model=https://...@host/m"]),
        (["--model", "https://u:p@ss@host/m"], ["--model", "https://...@host/m"]),
        (["s3://b/m?region=x&token=t0p"], ["s3://b/m?region=x&token=..."]),
        (["--env", "HF_TOKEN=hf_abc"], ["--env", "HF_TOKEN=..."]),
        (["--env=HF_TOKEN=hf_abc"], ["--env=HF_TOKEN=..."]),
        (["--ssl-keyfile", "/etc/server.pem"], ["--ssl-keyfile", "/etc/server.pem"]),
        (["--ssl-keyf", "/etc/server.pem"], ["--ssl-keyf", "/etc/server.pem"]),
        (["--ssl-keyfile-p", "pw"], ["--ssl-keyfile-p", "..."]),
        (["--api-k", "s3cret"], ["--api-k", "..."]),
        (["--api_k=s3cret"], ["--api_k=..."]),
        (["--hf-t", "hf_abc", "m"], ["--hf-t", "...", "..."]),
        (["--api", "m"], ["--api", "m"]),
        (["--api-server-count", "2"], ["--api-server-count", "2"]),
        (["--s3-access-key-id", "AKIA"], ["--s3-access-key-id", "..."]),
        (["--header", "authorization=x"], ["--header", "..."]),
        (["--allow-credentials", "m"], ["--allow-credentials", "m"]),
        (["--allowed-headers", '["*"]'], ["--allowed-headers", '["*"]']),
        (["--no-enable-request-id-headers", "m"], ["--no-enable-request-id-headers", "m"]),
        (["--h11-max-header-count", "9"], ["--h11-max-header-count", "9"]),
        (["--return_tokens_as_token_ids", "m"], ["--return_tokens_as_token_ids", "m"]),
        (["-x", '{"returned_token_ids": [1]}'], ["-x", '{"returned_token_ids": [1]}']),
        (
            [
                "-cc",
                '{"rope_kvcache_fusion_max_token_num": 1, "encoder_cudagraph_token_budgets": 2}',
            ],
            [
                "-cc",
                '{"rope_kvcache_fusion_max_token_num": 1, "encoder_cudagraph_token_budgets": 2}',
            ],
        ),
        (["-x", '{"id_token": "ey"}'], ["-x", "..."]),
        (["-x", '{"token_count": 1, "token": "ey"}'], ["-x", "..."]),
    ],
)
def test_secrets_in_the_command_line_are_hidden(argv: list[str], kept: list[str]) -> None:
    assert without_secrets(argv) == kept
    assert without_secrets(kept) == kept, "what was written is compared with what is asked"


@pytest.mark.parametrize(
    ("argv", "secrets"),
    [
        (["vllm", "serve", "m", "--port", "1"], ()),
        (["--api-key", "one", "two", "--hf-token=hf_abc"], ("one", "two", "hf_abc")),
        (["--api-key", "one", "--api-key", "one"], ("one",)),
        (["--model", "https://bob:p%40ss@host/m"], ("p%40ss", "p@ss")),
        (["https://t0ken@host/m?password=x1"], ("t0ken", "x1")),
        (["-kv", '{"extra": {"api_key": "a", "keys": ["b", {"c": "d"}]}, "e": "f"}'], tuple("abd")),
        (["-kv", '{"api_key": "abcd", "url": "redis://u:p%40w@h"}'], ("abcd", "p%40w", "p@w")),
        (["-kv", '{"password": 12345, "token": [1.5, true, null], "n": 7}'], ("12345", "1.5")),
        (["--api-k", "one", "--long-prefill-token-threshold", "4"], ("one",)),
        (["-kv", '{"api_key": "cut'], ('{"api_key": "cut',)),
        (["--env", "HF_TOKEN=hf_abc"], ("hf_abc",)),
    ],
)
def test_what_is_left_out_is_known(argv: list[str], secrets: tuple[str, ...]) -> None:
    assert secrets_in(argv) == secrets


def test_of_vllms_flags_these_are_secret() -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed: run `make setup`")
    # Where its command line is declared: by name, or as the fields of a class.
    root = Path(found.origin).parent
    flags = set(
        re.findall(r'"(--[A-Za-z][\w.-]+)"', (root / "engine" / "arg_utils.py").read_text())
    )
    for path in root.glob("entrypoints/**/cli_args.py"):
        text = path.read_text()
        flags |= set(re.findall(r'"(--[A-Za-z][\w.-]+)"', text))
        fields = re.findall(r"^    ([a-z]\w*): ", text, re.M)
        flags |= {f"--{field.replace('_', '-')}" for field in fields}
    assert {"--api-key", "--hf-token", "--allowed-headers", "--max-num-seqs"} <= flags
    hidden = {flag for flag in flags if without_secrets([flag, "x"]) != [flag, "x"]}
    assert hidden == {"--api-key", "--hf-token"}


def test_a_sentence_may_hold_a_url() -> None:
    assert without_userinfo("no server answers at http://bob:pw@host:1 (refused)") == (
        "no server answers at http://...@host:1 (refused)"
    )
    assert without_userinfo("mail me@host") == "mail me@host"
