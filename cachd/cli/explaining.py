"""``cachd may``: what the access rules say of somebody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.cli import exits
from cachd.cli.choosing import admin_client
from cachd.cli.output import print_json

if TYPE_CHECKING:
    import argparse


def may(arguments: argparse.Namespace) -> int:
    """Exit code 0 if it is allowed, 5 if it isn't."""
    body = {
        "verb": arguments.verb,
        "uri": arguments.uri,
        "uid": arguments.uid,
        "namespace": arguments.namespace,
        "service_account": arguments.service_account,
    }
    answer = admin_client(arguments, needed=True).call("POST", "/v1/may", body)
    if arguments.json:
        print_json(answer)
    else:
        print(f"{'allowed' if answer['allowed'] else 'denied'}: {answer['reason']}")
        if answer["identity"]:
            print("the daemon's own identity is lent")
        if answer["open_hits"]:
            print("hits are given without asking the source")
    return exits.OK if answer["allowed"] else exits.ACCESS
