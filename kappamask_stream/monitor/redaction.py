"""What must not be read in a log, on a page or in an answer: credentials in texts are hidden. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kappamask_stream.sources.hrefs import shown_url

if TYPE_CHECKING:
    from collections.abc import Mapping

HIDDEN = "***"

#: Variables of the environment whose values are hidden wherever they turn up.
_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN")
#: Shorter values would hide what they stand in by chance.
_SHORTEST = 8
#: Characters of a text that are looked at, and that are left of it: strangers' texts may be of any length.
_READ, _LONGEST = 16_384, 8_192

_NAMES = (
    r"x-amz-signature|x-amz-security-token|x-amz-credential|(?:aws_?)?secret_?(?:access_?)?key|(?:aws_?)?access_?key_?id"
    r"|(?:aws_?)?session_?token|(?:access|refresh|id|auth|security|bearer)_?token|token|sig|signature|credential"
    r"|client_?secret|secret|password|passwd|api_?key|private_?key|authorization|proxy-authorization|cookie|set-cookie"
)
_NAME = re.compile(rf"(?:{_NAMES})", re.IGNORECASE)
#: Everything between scheme and host is who it is; passwords may hold any character but a slash and a blank.
_USER = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]{0,20}://)[^\s/]*@", re.IGNORECASE)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://[^\s\"'<>`]+", re.IGNORECASE)
_AFTER_URL = ".,;:!)]}"
_HEADER = re.compile(
    r"\b(?P<name>(?:proxy-)?authorization|(?:set-)?cookie|x-amz-security-token)(?P<between>[\"']?\s*[:=]\s*)"
    r"(?P<value>\"[^\"\n]*\"|'[^'\n]*'|[^\n]*)",
    re.IGNORECASE,
)
_PAIR = re.compile(
    rf"(?<![a-z0-9])(?P<name>{_NAMES})(?P<between>[\"']?\s*=\s*|[\"']\s*:\s*)"
    r"(?P<value>\"[^\"\n]*\"|'[^'\n]*'|[^\s,;&\"'<>]+)",
    re.IGNORECASE,
)
#: Tokens that tell what they are: RFC 6750 bearers, JSON Web Tokens, AWS's key ids.
_TOKEN = re.compile(
    r"\bbearer\s+[A-Za-z0-9._~+/-]{12,}=*|\beyJ[A-Za-z0-9_-]{8,400}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Redaction:
    """Hides credentials in texts: users and queries of URLs, headers, pairs of name and value, known values.

    Attributes
    ----------
    known : values that are hidden wherever they stand.
    """

    known: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of_environment(cls, environ: Mapping[str, str]) -> Redaction:
        """Know the secrets that AWS's variables hold."""
        values = (environ.get(name, "") for name in _VARIABLES)
        return cls(known=tuple(value for value in values if len(value) >= _SHORTEST))

    def text(self, text: str) -> str:
        """Return a text as it may be shown; what is no secret stays as it is, but for the end of a very long text."""
        length = len(text)
        if length > _READ:
            text = text[:_READ].rsplit(None, 1)[0]  # what was cut in two would not be recognised
        for value in self.known:
            text = text.replace(value, HIDDEN)
        text = _HEADER.sub(rf"\g<name>\g<between>{HIDDEN}", text)
        if "://" in text:
            text = _URL.sub(_shown, _USER.sub(r"\g<scheme>", text))
        text = _PAIR.sub(rf"\g<name>\g<between>{HIDDEN}", text)
        text = _TOKEN.sub(HIDDEN, text)
        return text if max(length, len(text)) <= _LONGEST else f"{text[:_LONGEST]}... ({length} characters)"

    @staticmethod
    def is_secret(name: str) -> bool:
        """Tell whether a field of this name holds a credential."""
        return _NAME.fullmatch(name) is not None


def _shown(found: re.Match[str]) -> str:
    """Drop what a URL's query may sign; the sentence's own punctuation after it stays."""
    url = found[0].rstrip(_AFTER_URL)
    return shown_url(url) + found[0][len(url) :]
