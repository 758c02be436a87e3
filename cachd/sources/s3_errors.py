"""What botocore raised, as an error of ours. Only the parsed code decides, never the text.

Codes: "Error responses" in the Amazon S3 API reference. A HEAD has no body, so its code is the bare
status; callers ask by another request too, where that matters.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from cachd.errors import (
    AccessError,
    CachdError,
    ConfigInvalid,
    CredentialsExpired,
    CredentialsInvalid,
    CredentialsMissing,
    InvalidError,
    NotFound,
    OriginBusy,
    OriginError,
    OriginMoved,
    OriginTls,
    OriginUnreachable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.sources.s3_location import S3Address

_SEND_KEYS = (
    "send credentials with the request (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
    "environment of `cachd pull`), or give the daemon some in its own"
)
_NAME_ENDPOINT = (
    "is it the right endpoint? Name another with --endpoint or AWS_ENDPOINT_URL, or in the "
    "daemon's configuration with sources.s3.endpoint; else check the way there"
)

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_INVALID = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "InvalidTokenId",
    "InvalidSecurity",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
}
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "Forbidden"}
_BUSY = {"SlowDown", "503", "429", "TooManyRequests", "Throttling", "ThrottlingException",
         "RequestLimitExceeded", "ServiceUnavailable", "BandwidthLimitExceeded"}  # fmt: skip
_MOVED = {"PermanentRedirect", "TemporaryRedirect", "301", "307", "AuthorizationHeaderMalformed",
          "IncorrectEndpoint", "IllegalLocationConstraintException"}  # fmt: skip


def code_of(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def region_of(error: boto.ClientError) -> str | None:
    """The bucket's region, where a refusal names it."""
    headers: Mapping[str, str] = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
    return str(region) if region and code_of(error) in _MOVED | {"400"} else None


def to_error(error: BaseException, *, address: S3Address, endpoint: str, whose: str) -> CachdError:
    """``error`` in our words; a CachdError passes unchanged, the unknown becomes OriginError.

    ``whose`` credentials signed the call ("the request's"), "" for none.
    """
    if isinstance(error, CachdError):
        return error
    if isinstance(error, boto.ClientError):
        return _from_answer(error, address, endpoint, whose)
    return _from_failure(error, endpoint)


def _from_answer(
    error: boto.ClientError, address: S3Address, endpoint: str, whose: str
) -> CachdError:
    bucket = address.bucket
    code, status = code_of(error), status_of(error)
    owner = whose or "the"
    if code in _EXPIRED:
        return CredentialsExpired(
            f"S3 authentication failed at {endpoint}: {owner} credentials have expired ({code})",
            hint="send fresh credentials",
        )
    if code in _INVALID:
        return CredentialsInvalid(
            f"S3 authentication failed at {endpoint}: {owner} credentials are wrong ({code})",
            hint="check access key, secret key and session token, and the endpoint they are for",
        )
    if code == "RequestTimeTooSkewed":
        return OriginError(
            f"{endpoint} refuses this node's clock (RequestTimeTooSkewed)",
            hint="set the node's time",
        )
    if code == "NoSuchBucket":
        return NotFound(
            f"S3 bucket {bucket} does not exist at {endpoint}",
            hint="check the bucket's name and the endpoint",
        )
    if code == "InvalidBucketName":
        return InvalidError(f"{endpoint} refuses {bucket!r} as the name of a bucket", field="uri")
    if code in {"NoSuchKey", "NoSuchVersion", "404", "NotFound"}:
        return no_model(address.uri)
    if code in _MOVED:
        region = region_of(error)
        where = f"; it is in {region}" if region else ""
        return OriginMoved(
            f"S3 bucket {bucket} is not to be had at {endpoint} in this region ({code}){where}",
            hint="set the region, or the endpoint of the bucket's region",
        )
    if code in _DENIED or status in {401, 403}:
        return _denied(code, bucket, endpoint, whose)
    if code in _BUSY or status in {429, 503}:
        return OriginBusy(f"{endpoint} is busy ({code})", retry_after=_retry_after(error))
    return OriginError(
        f"{endpoint} answered {status or 'with an error'}" + (f" ({code})" if code else ""),
        hint="look at the object store's own log",
        status=status,
    )


def _denied(code: str, bucket: str, endpoint: str, whose: str) -> CachdError:
    if not whose:
        return CredentialsMissing(
            f"S3 authentication is needed: {endpoint} refuses unsigned requests for bucket {bucket}"
            f" ({code}), and no credentials were found",
            hint=_SEND_KEYS,
        )
    return AccessError(
        f"S3 access denied to bucket {bucket} at {endpoint} ({code}) with {whose} credentials",
        hint="they need s3:ListBucket on the bucket and s3:GetObject on its objects",
    )


def no_model(uri: str, *, is_filtered: bool = False) -> NotFound:
    """``is_filtered``: patterns went over what is there."""
    if is_filtered:
        return NotFound(
            f"No model found in {uri}: nothing there passes the allow and ignore patterns",
            hint="the patterns left nothing (--allow, --ignore, STORAGE_ALLOW_PATTERNS, "
            "STORAGE_IGNORE_PATTERNS): they match paths below the URI, such as '*.safetensors'; "
            "without them the same error means that the path is wrong",
        )
    return NotFound(
        f"No model found in {uri}",
        hint="check the path; a prefix is a directory, and its objects lie below it",
    )


def _from_failure(error: BaseException, endpoint: str) -> CachdError:
    if isinstance(error, boto.SSLError):
        return tls_failed(error, endpoint)
    if isinstance(error, boto.ProxyConnectionError):
        return OriginUnreachable(f"the proxy on the way to {endpoint} can't be used")
    if isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError):
        return OriginUnreachable(f"{endpoint} did not answer in time", hint=_NAME_ENDPOINT)
    if isinstance(error, boto.ConnectionError | boto.HTTPClientError):
        return OriginUnreachable(
            f"no connection to {endpoint}: {_cause(error)}",
            hint=_NAME_ENDPOINT,
        )
    if isinstance(error, boto.NoCredentialsError):
        return CredentialsMissing(
            "S3 authentication is needed, and no credentials were found",
            hint=_SEND_KEYS,
        )
    if isinstance(
        error,
        boto.ProfileNotFound
        | boto.PartialCredentialsError
        | boto.ConfigParseError
        | boto.ConfigNotFound
        | boto.CredentialRetrievalError
        | boto.RefreshWithMFAUnsupportedError
        | boto.UnauthorizedSSOTokenError
        | boto.SSOTokenLoadError,
    ):
        return ConfigInvalid(
            f"the daemon's own S3 credentials can't be loaded: {type(error).__name__}",
            hint="check its AWS environment, profile and web identity",
        )
    if isinstance(error, ResponseParserError | RecursionError):
        return OriginError(
            f"{endpoint} does not answer as S3 does", hint="is this an S3 endpoint, and its port?"
        )
    if isinstance(error, boto.BotoCoreError | ValueError):
        return OriginError(f"the call at {endpoint} failed: {type(error).__name__}")
    raise error


def tls_failed(error: BaseException, endpoint: str) -> OriginTls:
    """For a handshake that failed, mostly by a certificate that isn't trusted."""
    return OriginTls(
        f"TLS with {endpoint} failed: {_tls_reason(error)}",
        hint="give the CA that signed its certificate, or correct the endpoint",
    )


def _cause(error: Any) -> str:
    inner = getattr(error, "kwargs", {}).get("error") or error.__cause__
    system = getattr(inner, "os_error", None) or inner
    text = getattr(system, "strerror", None)
    return str(text) if text else type(inner or error).__name__


def _tls_reason(error: BaseException) -> str:
    inner: BaseException | None = error
    seen: set[int] = set()
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        # aiohttp's own certificate error is an ssl.CertificateError without these.
        message = getattr(inner, "verify_message", None)
        if message:
            return f"certificate not accepted ({message})"
        reason = getattr(inner, "reason", None)
        if isinstance(inner, ssl.SSLError) and isinstance(reason, str):
            return reason.lower().replace("_", " ")
        inner = inner.__cause__ or inner.__context__
    return "the handshake failed"


def _retry_after(error: boto.ClientError) -> float | None:
    text = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None
