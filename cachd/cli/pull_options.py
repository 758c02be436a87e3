"""The options of ``cachd pull``, and of whatever else names a model at its source."""

from __future__ import annotations

import argparse
import math

from cachd.model import DIGEST_DIGITS, parse_digest

EPILOG = """\
environment:
  Every option is also a variable: --wait-daemon is CACHD_WAIT_DAEMON. The command line wins; a
  variable that is set to nothing counts as unset. Switches take true or false; CACHD_ALLOW and
  CACHD_IGNORE a JSON list or a list with commas; CACHD_DIGEST PATH=ALGORITHM:HEX, as many as you
  like with commas or on lines, or a JSON object; CACHD_HEADER 'NAME: VALUE' on lines, or a JSON
  object. CACHD_TOKEN_FILE names the service-account token that goes to the daemon,
  CACHD_API with CACHD_API_TOKEN, CACHD_API_CA and CACHD_API_SERVER_NAME a daemon's API over TCP
  instead of its socket, CACHD_TERMINATION_LOG where the reason of a failure is left for Kubernetes.
  POD_UID, POD_NAME, POD_NAMESPACE say which pod this is. docs/initializer.md has them all."""


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        # The text may be a secret: it isn't repeated.
        raise argparse.ArgumentTypeError("write 'Name: value'")
    return name.strip(), value.strip()


def _pin(text: str) -> tuple[str, str]:
    path, equals, digest = text.rpartition("=")
    if not equals or not path:
        raise argparse.ArgumentTypeError("write PATH=ALGORITHM:HEX")
    return path, _digest(digest)


def _model_pin(text: str) -> str:
    digest = _digest(text)
    if not digest.startswith("sha256:"):
        raise argparse.ArgumentTypeError("must be a sha256")
    return digest


def _readonly(text: str) -> str:
    """As KServe reads storage.kserve.io/readonly: only "false" means anything."""
    return "false" if text == "false" else "true"


def _digest(text: str) -> str:
    try:
        return str(parse_digest(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None


def add_uri_options(command: argparse.ArgumentParser) -> None:
    which = command.add_argument_group("which files")
    which.add_argument(
        "--allow",
        metavar="GLOB",
        action="append",
        default=[],
        help="take only files that match; may be repeated (default: STORAGE_ALLOW_PATTERNS)",
    )
    which.add_argument(
        "--ignore",
        metavar="GLOB",
        action="append",
        default=[],
        help="leave out files that match; may be repeated (default: STORAGE_IGNORE_PATTERNS)",
    )
    where = command.add_argument_group("the source (each over the environment)")
    where.add_argument(
        "--endpoint",
        metavar="URL",
        help="of the source: an S3, Google or Azure endpoint, a namenode, another hub",
    )
    where.add_argument("--region", metavar="NAME", help="of S3 buckets")
    where.add_argument("--addressing", choices=("auto", "path", "virtual"), help="of S3 buckets")
    where.add_argument("--anonymous", action="store_true", help="send no credentials, sign nothing")
    where.add_argument(
        "--no-verify-ssl", action="store_true", help="don't verify the origin's certificate"
    )
    where.add_argument("--ca-bundle", metavar="FILE", help="PEM authorities to trust besides")
    where.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        action="append",
        default=[],
        type=_header,
        help="sent to the host that is asked for the URI alone (none is known for s3:// and "
        "registries: an error); may be repeated. Visible in the process list: for "
        "secrets use the environment variable HOST-headers",
    )
    where.add_argument(
        "--no-forward",
        action="store_true",
        help="send nothing of this environment: no keys, tokens, passwords, endpoints, CA bundles, "
        "STORAGE_CONFIG, HOST-headers, docker configs, HDFS secret, registries and their passes, "
        "nor the pod's identity in its cloud; by default what the URI's scheme can use goes with "
        "the request",
    )


def add_pull_options(pull: argparse.ArgumentParser) -> None:
    pull.add_argument("uri", metavar="URI", help="such as s3://bucket/model; or a local path")
    pull.add_argument(
        "destination",
        nargs="?",
        metavar="DEST",
        help="directory to fill (default: none; prints where the model is in the cache)",
    )
    add_uri_options(pull)
    content = pull.add_argument_group("the content (other bytes are refused: digest_mismatch)")
    content.add_argument(
        "--digest",
        metavar="PATH=ALGORITHM:HEX",
        action="append",
        default=[],
        type=_pin,
        help=f"of one file: {', '.join(DIGEST_DIGITS)}; may be repeated",
    )
    content.add_argument(
        "--model-digest",
        metavar="sha256:HEX",
        type=_model_pin,
        help="of the whole model: find . -type f -printf '%%P\\0' | LC_ALL=C sort -z | "
        "xargs -0 sha256sum | sha256sum",
    )
    _how(pull)
    _away(pull)


def _how(pull: argparse.ArgumentParser) -> None:
    how = pull.add_argument_group("how")
    how.add_argument(
        "--priority",
        choices=("interactive", "prefetch"),
        help="whether somebody waits (default: interactive)",
    )
    how.add_argument("--timeout", metavar="SECONDS", type=seconds, help="for the whole")
    how.add_argument("--no-wait", action="store_true", help="start the fetch and return")
    how.add_argument(
        "--lease-ttl", metavar="SECONDS", type=seconds, help="take a lease and leave it"
    )
    how.add_argument(
        "--holder",
        metavar="NAME",
        help="who the lease is for; without --lease-ttl it lives as long as the pod of POD_UID",
    )
    how.add_argument(
        "--view",
        choices=("never", "auto", "always"),
        help="have the daemon show the model at DEST, where DEST is this pod's part of the "
        "cache's views/ (needs POD_UID). auto: copy where it isn't; always: fail (default: never)",
    )
    how.add_argument(
        "--view-mount",
        metavar="DIR",
        help="where this pod's views are mounted; DEST lies there or below (default: DEST)",
    )
    how.add_argument(
        "--readonly",
        metavar="true|false",
        type=_readonly,
        help="false: a view is a private copy that anybody in the pod may write to "
        "(default: true; copies are private anyway)",
    )
    how.add_argument(
        "--layout",
        choices=("plain", "hf-cache"),
        help="hf-cache: an hf:// model as huggingface_hub's cache has it, for programs that run "
        "with HF_HUB_CACHE=DEST and HF_HUB_OFFLINE=1; files are copied, a view is never made "
        "(default: plain, the model's files and nothing else)",
    )
    how.add_argument(
        "--hard-link",
        action="store_true",
        help="link files instead of copying them. DANGER: whoever writes into such a file changes "
        "the cached model for everybody",
    )
    how.add_argument(
        "--verify", action="store_true", help="check the copied blocks against the manifest"
    )
    how.add_argument(
        "--metadata",
        metavar="PATH",
        help="write what is known of the model there, as JSON: its URI, revision, files with sizes "
        "and digests, metadata. Relative: below DEST; true: cachd-metadata.json "
        "(default: nothing is written)",
    )
    how.add_argument("--quiet", action="store_true", help="no progress")
    how.add_argument(
        "--heartbeat",
        metavar="SECONDS",
        type=seconds,
        help="how often to say what is going on where standard error is no terminal; 0: never "
        "(default: 10)",
    )


def _away(pull: argparse.ArgumentParser) -> None:
    away = pull.add_argument_group("where the daemon can't help")
    away.add_argument(
        "--wait-daemon",
        metavar="SECONDS",
        type=seconds,
        help="how long to wait for a daemon that is away or restarts (default: 30)",
    )
    away.add_argument(
        "--fallback",
        action="store_true",
        help="fetch the model here when the daemon can't be reached after that, or has no space "
        "for it: with the daemon's own code in a process of its own, with which this takes "
        "up to 220 MiB of memory in all instead of 64. Nothing is kept for others",
    )
