"""Proxy rules, pure."""

from __future__ import annotations

import base64

import pytest

from cachd.errors import ConfigInvalid
from cachd.fetch.proxy import ProxyRules

BOTH = {"HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "http://p:2"}


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "is_direct"),
    [
        ("", "example.com", 80, False),
        ("*", "example.com", 80, True),
        ("example.com", "example.com", 80, True),
        ("example.com", "a.example.com", 80, True),
        ("example.com", "notexample.com", 80, False),
        (".example.com", "a.example.com", 80, True),
        ("*.example.com", "a.example.com", 80, True),
        ("EXAMPLE.com", "A.Example.COM", 80, True),
        ("example.com:8080", "example.com", 8080, True),
        ("example.com:8080", "example.com", 80, False),
        ("10.0.0.0/8", "10.1.2.3", 80, True),
        ("10.0.0.0/8", "11.1.2.3", 80, False),
        ("127.0.0.1", "127.0.0.1", 80, True),
        ("fd00::/8", "fd00::1", 80, True),
        ("::1", "::1", 80, True),
        ("[::1]", "::1", 80, True),
        ("a, b ,c", "b", 80, True),
        ("localhost,127.0.0.1", "localhost", 9000, True),
    ],
)
def test_no_proxy(no_proxy: str, host: str, port: int, is_direct: bool) -> None:
    rules = ProxyRules.from_environment({**BOTH, "NO_PROXY": no_proxy})
    assert (rules.proxy_for("http", host, port) is None) is is_direct


def test_which_variable_counts() -> None:
    rules = ProxyRules.from_environment({**BOTH, "http_proxy": "http://lower:3"})
    http, https = rules.proxy_for("http", "x", 80), rules.proxy_for("https", "x", 443)
    assert http is not None
    assert https is not None
    assert (http.host, http.port, https.host, https.port) == ("lower", 3, "p", 2)
    rules = ProxyRules.from_environment({"ALL_PROXY": "p:9"})
    assert rules.proxy_for("https", "x", 443) is not None
    assert ProxyRules.from_environment({}).proxy_for("https", "x", 443) is None


def test_the_user_is_decoded_and_never_shown() -> None:
    rules = ProxyRules.from_environment({"HTTPS_PROXY": "http://us%40er:se%3Acret@p:2"})
    proxy = rules.https
    assert proxy is not None
    assert proxy.authorization == "Basic " + base64.b64encode(b"us@er:se:cret").decode()
    assert "Basic" not in repr(proxy)


@pytest.mark.parametrize("value", ["socks5://p:1", "https://p:1", "http://", "http://p:port"])
def test_a_proxy_that_cannot_be_used(value: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        ProxyRules.from_environment({"HTTPS_PROXY": value})
    assert caught.value.field == "HTTPS_PROXY"
