"""What a user may name, and that a password stays where it is."""

import pytest

from vllm_codesign import settings
from vllm_codesign.model.errors import CodesignError
from vllm_codesign.store.clickhouse.target import parse


def test_a_whole_url() -> None:
    found = parse("clickhouse:https://reader@ch.example:9440/obs?table=spans", password="")
    assert (found.scheme, found.host, found.port) == ("https", "ch.example", 9440)
    assert (found.user, found.database, found.table) == ("reader", "obs", "spans")
    assert str(found) == "https://ch.example:9440/obs.spans"


def test_what_is_left_out_has_a_default() -> None:
    found = parse("clickhouse:http://localhost", password="")
    assert (found.port, found.user, found.database) == (8123, "default", "default")
    assert found.table == "otel_traces"
    assert parse("clickhouse:https://localhost", password="").port == 8443


def test_a_password_of_the_url_or_the_environment_is_in_no_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "hush")
    assert settings.clickhouse_password() == "hush"
    assert parse("clickhouse:http://localhost").password == "hush"
    found = parse("clickhouse:http://me:s%40crt@localhost")
    assert found.password == "s@crt"
    assert "crt" not in f"{found} {found!r}"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("clickhouse:tcp://me:secret@localhost:9000", "want http or https"),
        ("clickhouse:http://me:secret@/otel", "want http or https and a host"),
        ("clickhouse:http://me:secret@localhost:port/", "not a ClickHouse URL"),
        ("clickhouse:http://me:secret@localhost/a`b", "no name of a ClickHouse database"),
        ("clickhouse:http://me:secret@localhost/otel?table=a;b", "no name of a ClickHouse table"),
        ("clickhouse:http://me:secret@localhost/otel?tabel=x", "has no 'tabel'"),
    ],
)
def test_what_is_no_url_is_said_without_its_password(url: str, said: str) -> None:
    with pytest.raises(CodesignError, match=said) as raised:
        parse(url, password="")
    assert "secret" not in str(raised.value)
