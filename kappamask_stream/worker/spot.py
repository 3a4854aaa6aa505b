"""Learns from EC2's instance metadata (IMDSv2) that this spot instance will be taken away."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
from pydantic import AwareDatetime, BaseModel

if TYPE_CHECKING:
    from kappamask_stream.worker.stop import Stop

_ENDPOINT = "http://169.254.169.254"
_TOKEN_S = 21_600
_EACH_S = 5.0
#: Seconds that an answer may take: it comes from this machine's own hypervisor.
_PATIENCE_S = 2.0
#: Looks without any answer after which this is taken for no EC2 instance.
_TRIES = 3
#: Seconds before the instance is taken away in which all must be over.
_MARGIN_S = 10.0


class SpotNotice(BaseModel):
    """What ``spot/instance-action`` holds once the decision is made.

    Attributes
    ----------
    action : ``terminate``, ``stop`` or ``hibernate``.
    time : when, about two minutes after the notice.
    """

    action: str
    time: AwareDatetime

    def grace_s(self, most_s: float, *, now: datetime) -> float:
        """Return the seconds that are left for work: not more than `most_s`, and over before the instance is."""
        return max(0.0, min(most_s, (self.time - now).total_seconds() - _MARGIN_S))


class _RefusedError(Exception):
    """The metadata service answers, but not what was asked."""


async def watch_spot(stop: Stop, *, grace_s: float) -> None:
    """Ask every few seconds; return when there was a notice, which asks `stop`, or where this is no EC2 instance.

    ``AWS_EC2_METADATA_SERVICE_ENDPOINT`` and ``AWS_EC2_METADATA_DISABLED`` are honoured, as all of AWS's clients do.

    Parameters
    ----------
    grace_s : seconds that work may still take, at most.
    """
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return
    endpoint = (os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _ENDPOINT).rstrip("/")
    failures, is_ec2 = 0, False
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE_S)) as session:
        metadata = _Metadata(session, endpoint)
        while is_ec2 or failures < _TRIES:
            try:
                told = await metadata.notice()
            except (aiohttp.ClientError, OSError, _RefusedError, ValueError):  # OSError: TimeoutError, too
                failures += 1  # once it has answered, it is asked for as long as this process lives
            else:
                is_ec2 = True
                if told is not None:
                    notice, now = told
                    reason = f"spot interruption notice: {notice.action} at {notice.time:%H:%M:%S} UTC"
                    stop.ask(reason, grace_s=notice.grace_s(grace_s, now=now))
                    return
            await asyncio.sleep(_EACH_S)


def _time_of(answer: aiohttp.ClientResponse) -> datetime:
    """Return the time of an answer, by the clock of who answers: this machine's may be another."""
    try:
        now = parsedate_to_datetime(answer.headers.get("Date", ""))
    except ValueError:
        return datetime.now(UTC)
    return now.replace(tzinfo=now.tzinfo or UTC)


class _Metadata:
    """The metadata service. State: the session's token, which ends after six hours."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: str) -> None:
        self._session, self._endpoint = session, endpoint
        self._token: str | None = None

    async def notice(self) -> tuple[SpotNotice, datetime] | None:
        """Return the interruption notice, and the service's time of it; None where there is none."""
        if self._token is None:
            self._token = await self._new_token()
        headers = {"X-aws-ec2-metadata-token": self._token}
        url = f"{self._endpoint}/latest/meta-data/spot/instance-action"
        async with self._session.get(url, headers=headers, allow_redirects=False) as answer:
            if answer.status == HTTPStatus.NOT_FOUND:
                return None
            if answer.status != HTTPStatus.OK:
                self._token = None  # 401: it has ended
                raise _RefusedError(answer.status)
            return SpotNotice.model_validate_json(await answer.read()), _time_of(answer)

    async def _new_token(self) -> str:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_S)}
        url = f"{self._endpoint}/latest/api/token"
        async with self._session.put(url, headers=headers, allow_redirects=False) as answer:
            if answer.status != HTTPStatus.OK:
                raise _RefusedError(answer.status)
            token = (await answer.read()).decode("ascii", "replace").strip()
            if not token.isascii() or not token.isprintable():  # a proxy's page, say: it cannot be sent in a header
                raise _RefusedError(answer.status)
            return token
