"""What the client sends along for hubs."""

from __future__ import annotations

from typing import Any

import pytest

from cachd.cli.forward import gather
from cachd.cli.forward_values import Overrides
from tests.cli.mounted import reader

HF, MS = "hf://o/m", "modelscope://o/m"
KEYS = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"}
FILES = {"/token": "hf_file\n", "/empty": "\n", "/ca/cabundle.crt": "-----BEGIN CERTIFICATE-----"}
read = reader(FILES)


@pytest.mark.parametrize(
    ("uri", "environ", "credentials", "options"),
    [
        (HF, {}, {}, {}),
        (HF, {"HF_TOKEN": "a\n", "HUGGING_FACE_HUB_TOKEN": "b", **KEYS}, {"token": "a"}, {}),
        ("cachd+hf://o/m", {"HUGGING_FACE_HUB_TOKEN": "b"}, {"token": "b"}, {}),
        (HF, {"HF_TOKEN": " ", "HF_TOKEN_PATH": "/token"}, {"token": "hf_file"}, {}),
        (HF, {"HF_TOKEN_PATH": "/empty"}, {}, {}),
        (HF, {"HF_ENDPOINT": "http://hub:8080/x"}, {}, {"endpoint": "http://hub:8080/x"}),
        (
            HF,
            {"hub-headers": '{"A": "b"}', "o-headers": '{"A": "c"}', "HF_ENDPOINT": "http://hub"},
            {"headers": {"hub": {"A": "b"}}},
            {"endpoint": "http://hub"},
        ),
        (
            HF,
            {"huggingface.co-headers": '{"A": "b"}', "HF_TOKEN": "a"},
            {"token": "a", "headers": {"huggingface.co": {"A": "b"}}},
            {},
        ),
        (
            HF,
            {"CA_BUNDLE_CONFIGMAP_NAME": "ca", "CA_BUNDLE_VOLUME_MOUNT_POINT": "/ca"},
            {},
            {"ca_pem": FILES["/ca/cabundle.crt"]},
        ),
        (HF, {"MODELSCOPE_API_TOKEN": "ms", "MODELSCOPE_ENDPOINT": "http://x"}, {}, {}),
        (
            MS,
            {"MODELSCOPE_API_TOKEN": "ms", "HF_TOKEN": "hf", "HF_ENDPOINT": "http://x"},
            {"token": "ms"},
            {},
        ),
        (MS, {"MODELSCOPE_DOMAIN": "a.cn"}, {}, {"endpoint": "a.cn"}),
        (
            MS,
            {"MODELSCOPE_ENDPOINT": "https://b.cn", "MODELSCOPE_DOMAIN": "a.cn"},
            {},
            {"endpoint": "https://b.cn"},
        ),
        # A registry may name any server: a hub's token goes to its own host and nowhere else.
        (
            "model-registry://r/m",
            {"MODELSCOPE_API_TOKEN": "ms"},
            {
                "headers": {
                    "www.modelscope.cn": {
                        "Authorization": "Bearer ms",
                        "Cookie": "m_session_id=ms",
                    }
                }
            },
            {},
        ),
        (
            "model-registry://r/m",
            {"HF_TOKEN": "a", "HF_ENDPOINT": "http://x"},
            {"headers": {"x": {"Authorization": "Bearer a"}}},
            {},
        ),
    ],
)
def test_environment(
    uri: str, environ: dict[str, str], credentials: dict[str, Any], options: dict[str, Any]
) -> None:
    result = gather(environ, uri, read=read)
    assert (result.credentials, result.options, result.warnings) == (credentials, options, ())
    assert gather(environ, uri, forward=False, read=read).credentials == {}


def test_a_token_file_that_is_not_there_is_told() -> None:
    result = gather({"HF_TOKEN_PATH": "/none"}, HF, read=read)
    assert result.credentials == {}
    assert result.warnings == ("HF_TOKEN_PATH: can't read /none: No such file or directory",)


@pytest.mark.parametrize(
    ("overrides", "environ", "host"),
    [
        (Overrides(headers=(("A", "b"),)), {}, "huggingface.co"),
        (Overrides(headers=(("A", "b"),)), {"HF_ENDPOINT": "http://Hub:1"}, "hub"),
        (Overrides(headers=(("A", "b"),), endpoint="x.y"), {"HF_ENDPOINT": "http://hub"}, "x.y"),
    ],
)
def test_headers_of_the_command_line_go_to_the_hub(
    overrides: Overrides, environ: dict[str, str], host: str
) -> None:
    result = gather(environ, HF, overrides, read=read)
    assert result.credentials == {"headers": {host: {"A": "b"}}}
