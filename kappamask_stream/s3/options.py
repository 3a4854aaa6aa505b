"""What an S3 store is reached with, and the names of objects."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kappamask_stream.errors import UsageError
from kappamask_stream.s3.retry import Patience

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

_DEFAULT_CONNECTIONS = 16
_URL = re.compile(r"s3://(?P<bucket>[^/\s]+)(?:/(?P<key>.*))?", re.DOTALL)
#: No bucket's name has these characters, but for the ARN of an access point.
_LOGIN = re.compile(r"s3://(?!arn:)[^/]*[@:]")
_ENDPOINT = re.compile(r"https?://[^/\s@]+/?")


@dataclass(frozen=True, kw_only=True)
class S3Options:
    """How a store is reached; None leaves a choice to a preset, and where there is none to the usual AWS places.

    Attributes
    ----------
    endpoint_url : ``https://HOST[:PORT]``; None: AWS, or what ``AWS_ENDPOINT_URL`` and the profile say.
    region : None: what variables and the profile say; AWS buckets elsewhere are found all the same.
    profile : section of the AWS configuration; None: ``AWS_PROFILE``, and then the usual chain of credentials.
    anonymous : True: requests are not signed, no credentials are looked for.
    requester_pays : True: you agree to pay for requests and traffic; None: as a preset for the bucket says, else no.
    max_connections : requests at once, and the size of the connection pool; None: 16.
    requests_per_minute : most requests begun within any minute; None: no limit.
    patience : how long a store that fails is tried again.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False
    requester_pays: bool | None = None
    max_connections: int | None = None
    requests_per_minute: int | None = None
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        if self.endpoint_url is not None and _ENDPOINT.fullmatch(self.endpoint_url) is None:
            shown = self.endpoint_url.rpartition("@")[2][:200]
            raise UsageError(f"the S3 endpoint {shown!r} is not of the form https://HOST or http://HOST:PORT")
        if self.anonymous and self.requester_pays:
            raise UsageError(
                "--s3-anonymous and --s3-requester-pays exclude each other: who pays must be known by name"
            )
        if self.anonymous and self.profile is not None:
            raise UsageError(f"--s3-anonymous uses no credentials, --s3-profile {self.profile} names some: give one")
        for name, value in (
            ("max_connections", self.max_connections),
            ("requests_per_minute", self.requests_per_minute),
        ):
            if value is not None and value < 1:
                raise UsageError(f"S3 {name} is {value}, at least 1 is needed")

    @property
    def connections(self) -> int:
        """Requests at once."""
        return self.max_connections or _DEFAULT_CONNECTIONS

    def over(self, preset: S3Options) -> Self:
        """Return these options, and those of `preset` where these leave the choice."""
        names = ("endpoint_url", "region", "profile", "requester_pays", "max_connections", "requests_per_minute")
        chosen = {name: getattr(preset, name) for name in names if getattr(self, name) is None}
        if self.anonymous:  # a preset adds no credentials, and nobody to pay
            chosen = {name: value for name, value in chosen.items() if name not in {"profile", "requester_pays"}}
        return replace(self, **chosen)


#: The Copernicus Data Space Ecosystem's store, with the quota of a user without a contract.
CDSE = S3Options(
    endpoint_url="https://eodata.dataspace.copernicus.eu",
    region="default",
    max_connections=4,
    requests_per_minute=2000,
)


@dataclass(frozen=True, kw_only=True)
class S3Object:
    """One object, in the version that was seen.

    Attributes
    ----------
    bucket, key : where it is.
    size : bytes.
    etag : of its version, without quotes, ``W/`` before a weak one; None where the store gives none.
    metadata : what its writer said about it, names in lower case; listings do not tell.
    """

    bucket: str
    key: str
    size: int
    etag: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def url(self) -> str:
        """``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self.key}"


def is_s3_url(text: str) -> bool:
    """Tell whether a text means an object or prefix on S3."""
    return text.startswith("s3://")


def parse_s3_url(url: str) -> tuple[str, str]:
    """Return bucket and key (or prefix, may be empty) of ``s3://bucket/key``.

    Raises
    ------
    UsageError
        If it is none, or holds credentials, which are not repeated.
    """
    if _LOGIN.match(url):
        raise UsageError(
            "an S3 URL has credentials before its bucket: leave them out, it is s3://BUCKET/KEY; set AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, or name a profile"
        )
    found = _URL.fullmatch(url)
    if found is None or not url.isprintable():
        raise UsageError(f"{url[:200]!r} is no S3 URL: s3://BUCKET/KEY is expected")
    return found["bucket"], found["key"] or ""


def bare_etag(header: str | None) -> str | None:
    """Return an ETag without quotes: some stores leave them out in listings."""
    if not header:
        return None
    weak = "W/" if header.startswith("W/") else ""
    return weak + header.removeprefix("W/").strip('"')
