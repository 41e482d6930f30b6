"""Victims behind an address: a server that answers clips with scores, over HTTP.

A request is a POST of a file of safetensors with one tensor, "clips", as the `Victim` has made them
for the model. The answer is a file of safetensors with "logits" or "probabilities", a row for each
clip, or "decisions", an index for each. `examples/serve.py` is such a server.
"""

from __future__ import annotations

import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import torch
from torch import Tensor

from vidmarl.errors import SettingsError
from vidmarl.utils.kinds import check_least, checked
from vidmarl.victims.attempts import Attempts

TURNED_AWAY = (429, 503)
"""Codes of a server that has not asked its model: too many requests, or not ready."""
FAILED = (500, 502, 504)
"""Codes of one that may have asked its model, and may answer the next time."""
SECRET = re.compile(r"key|auth|token|secret|password|cookie|credential", re.IGNORECASE)
"""What is in the name of a header, or of a part of the address, that holds a key."""
SHORTEST_SECRET = 4  # characters; shorter ones are left where they stand by chance
LONGEST_WAIT = 60.0  # seconds between two attempts
LARGEST_ANSWER = 2**28  # bytes


class Endpoint:
    """A model behind an HTTP address.

    An attempt that may have reached the model is a query of every clip in it, whether or not an
    answer has come: one that timed out, that broke off, or that a server failed at. One that was
    turned away (429, 503), or found no server, is none. In an attack a clip whose budget is spent
    takes part in no further attempt.

    Args:
        url: where clips are posted to.
        headers: of every request, such as `{"Authorization": "Bearer $KEY"}`. `$KEY`, here and in
            `url`, is the variable KEY of the environment. A key stands nowhere else: not in a file,
            a command or a result.
        timeout: seconds until an attempt without a whole answer is given up.
        retries: attempts after the first one.
        backoff: seconds before the second attempt, which double with every further one. A server's
            own Retry-After comes first.
        per_second: requests a second, at most; None: as many as there are.
        clips_at_once: clips in a request.

    Raises:
        SettingsError: a setting is of another kind, a variable of the environment is not set, or a
            key is written out.
        ValueError: a number is out of its range.
    """

    @checked
    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        backoff: float = 0.5,
        per_second: float | None = None,
        clips_at_once: int = 8,
    ) -> None:
        check_least("Endpoint", timeout=(timeout, 1e-3), retries=(retries, 0), backoff=(backoff, 0))
        check_least("Endpoint", per_second=(1 if per_second is None else per_second, 1e-6))
        check_least("Endpoint", clips_at_once=(clips_at_once, 1))
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise SettingsError(
                "Endpoint: there is a name or a password in the address. Give it as a header:"
                ' {"Authorization": "Basic $KEY"}, with KEY in the environment.'
            )
        self.url = url
        self._address = _filled_in("the address", url, any(SECRET.search(name) for name in parse_qs(parts.query)))
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self.per_second = per_second
        self.clips_at_once = clips_at_once
        self._headers = {
            name: _filled_in(f"the header {name!r}", value, bool(SECRET.search(name)))
            for name, value in (headers or {}).items()
        }
        self._opener = urllib.request.build_opener(_NoRedirects)  # a key goes to the address that it was given for
        self._turn = threading.Lock()
        self._next = 0.0

    def __repr__(self) -> str:
        return f"Endpoint({self.url.partition('?')[0]!r})"  # what follows may be a key

    def __call__(self, clips: Tensor) -> dict[str, Tensor]:
        """The scores of clips, by name."""
        return self.ask_counted(clips, Attempts(torch.arange(len(clips)), None, lambda clips: None))

    def ask_counted(self, clips: Any, attempts: Attempts) -> dict[str, Tensor]:
        """The scores of clips, by name, but for those that cannot pay for one more attempt after
        one that failed; nothing where none of them can.

        Raises:
            ConnectionError: no attempt was answered, or the server refuses the request, or its
                answer is none.
        """
        values = torch.as_tensor(clips).cpu()
        asking, wait = list(range(len(values))), 0.0
        for attempt in range(self.retries + 1):
            if attempt:
                asking = attempts.affordable(asking)
                if not asking:
                    return {}
                time.sleep(wait)
            self._wait_for_turn()
            wait = min(self.backoff * 2**attempt, LONGEST_WAIT)
            try:
                answer = self._post(values[asking])
            except urllib.error.HTTPError as error:
                if error.code not in TURNED_AWAY:
                    attempts.count(asking)
                why = f"{error.code} {error.reason}: {_text(error)}".rstrip(": ")
                if error.code not in (*TURNED_AWAY, *FAILED):
                    raise ConnectionError(f"{self} refuses the request: {self.without_secrets(why)}") from None
                wait = _asked_for(error.headers.get("Retry-After", ""), wait)
            except (OSError, HTTPException) as error:
                cause = error.reason if isinstance(error, urllib.error.URLError) else error
                if not _never_arrived(error):
                    attempts.count(asking)
                why = f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else str(cause)
            else:
                attempts.count(asking)
                return self._read(answer)
        times = "the only attempt" if self.retries == 0 else f"any of {self.retries + 1} attempts, the last of them"
        raise ConnectionError(f"{self} did not answer {times}: {self.without_secrets(why)}")

    def _post(self, clips: Tensor) -> bytes:
        """The body of an answer.

        Raises:
            OSError, HTTPException: there is none, or not all of it before the time is over.
        """
        from safetensors.torch import save

        body = save({"clips": clips.contiguous()})
        headers = {"Content-Type": "application/octet-stream", **self._headers}
        request = urllib.request.Request(self._address, body, headers, method="POST")
        end, parts, room = time.monotonic() + self.timeout, [], LARGEST_ANSWER
        with self._opener.open(request, timeout=self.timeout) as response:
            while part := response.read1(min(room, 2**20)):  # bit by bit: a time-out of its own is for each of them
                parts.append(part)
                room -= len(part)
                if time.monotonic() > end:
                    raise TimeoutError(f"the answer was not there after {self.timeout:g} s")
                if room == 0:
                    raise HTTPException(f"the answer has more than {LARGEST_ANSWER} bytes")
            if response.length:
                raise HTTPException(f"the answer ended {response.length} bytes too early")
        return b"".join(parts)

    def _read(self, answer: bytes) -> dict[str, Tensor]:
        """The tensors in the body of an answer."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(answer)  # which looks at every length that it claims
        except SafetensorError as error:
            begins = self.without_secrets(answer[:60].decode("utf-8", "replace"))
            raise ConnectionError(
                f"{self} answered with {len(answer)} bytes that are no file of safetensors ({error}); they begin"
                f" {begins!r}. Is that the address of the model?"
            ) from error

    def without_secrets(self, text: str) -> str:
        """A text without what the headers and the query of the address hold: a server may repeat
        it, and it may stand in a command."""
        values = [*self._headers.values(), *(value for _, value in parse_qsl(urlsplit(self._address).query))]
        for secret in sorted({part for value in values for part in (value, *value.split())}, key=len, reverse=True):
            if len(secret) >= SHORTEST_SECRET:
                text = text.replace(secret, "...")
        return text

    def _wait_for_turn(self) -> None:
        """Holds the rate of requests."""
        if self.per_second is not None:
            with self._turn:
                time.sleep(max(0.0, self._next - time.monotonic()))
                self._next = time.monotonic() + 1 / self.per_second


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _text(error: urllib.error.HTTPError) -> str:
    """The beginning of what a server says of an error, in one line."""
    try:
        said = error.read(300).decode("utf-8", "replace")
    except (OSError, HTTPException):
        return ""
    return " ".join(re.sub(r"<[^>]*>", " ", said).split())


def _asked_for(retry_after: str, wait: float) -> float:
    """Seconds until the next attempt: what a server asks for, in seconds or as a date, else
    `wait`."""
    if retry_after.strip().isdecimal():
        return min(float(retry_after), LONGEST_WAIT)
    try:
        due = parsedate_to_datetime(retry_after)
    except (TypeError, ValueError):
        return wait
    due = due if due.tzinfo else due.replace(tzinfo=UTC)
    return min(max((due - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_WAIT)


def _never_arrived(error: Exception) -> bool:
    """Whether there was no connection: no such host, or nobody listens there."""
    if not isinstance(error, urllib.error.URLError):
        return False
    reason = error.reason
    return not isinstance(reason, TimeoutError | ConnectionResetError | BrokenPipeError)


def _filled_in(what: str, value: str, secret: bool) -> str:
    """A text with the variables of the environment that it names.

    Raises:
        SettingsError: it holds a key that is written out, or a variable is not set.
    """
    if secret and "$" not in value:
        raise SettingsError(
            f"Endpoint: {what} holds a key that is written out, and settings are kept in commands and files. Put it in"
            " the environment, and write $KEY in its place, with the name of the variable."
        )
    filled = os.path.expandvars(value)
    if "$" in filled:
        raise SettingsError(f"Endpoint: {what} names a variable of the environment that is not set.")
    return filled
