"""Victims behind an address: a server that answers clips with scores, over HTTP.

A request is a POST of a file of safetensors with one tensor, "clips", as the `Victim` has made them
for the model. The answer is a file of safetensors with "logits" or "probabilities", a row for each
clip. `examples/serve.py` is such a server.
"""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any

import torch
from torch import Tensor

from vidmarl.errors import SettingsError
from vidmarl.utils.kinds import check_least, checked

TURNED_AWAY = (429, 503)
"""Codes of a server that has not asked its model: too many requests, or not ready."""
FAILED = (500, 502, 504)
"""Codes of one that may have asked its model, and may answer the next time."""
LONGEST_WAIT = 60.0  # seconds between two attempts
LARGEST_ANSWER = 2**28  # bytes


class Endpoint:
    """A model behind an HTTP address.

    An attempt that may have reached the model is a query of every clip in it, whether or not an
    answer has come: one that timed out, that broke off, or that a server failed at. One that was
    turned away (429, 503), or found no server, is none.

    Args:
        url: where clips are posted to.
        headers: of every request, such as `{"Authorization": "Bearer $KEY"}`. `$KEY` is the
            variable KEY of the environment, so that no key need stand in a file.
        timeout: seconds until an attempt without an answer is given up.
        retries: attempts after the first one.
        backoff: seconds before the second attempt, which double with every further one. A server's
            own Retry-After comes first.
        per_second: requests a second, at most; None: as many as there are.
        clips_at_once: clips in a request.

    Raises:
        SettingsError: a setting is of another kind, or a variable of the environment is not set.
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
        self.url = url
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self.per_second = per_second
        self.clips_at_once = clips_at_once
        self._headers = {name: _filled_in(name, value) for name, value in (headers or {}).items()}
        self._opener = urllib.request.build_opener(_NoRedirects)  # a key goes to the address that it was given for
        self._turn = threading.Lock()
        self._next = 0.0

    def __repr__(self) -> str:
        return f"Endpoint({self.url.partition('?')[0]!r})"  # what follows may be a key

    def __call__(self, clips: Tensor) -> dict[str, Tensor]:
        """The scores of clips, by name."""
        return self.ask_counted(clips, lambda clips: None)

    def ask_counted(self, clips: Any, count: Callable[[int], None]) -> dict[str, Tensor]:
        """The scores of clips, by name; `count(clips)` is called for every attempt that may have
        reached the model.

        Raises:
            ConnectionError: no attempt was answered, or the server refuses the request.
        """
        from safetensors.torch import load, save

        body = save({"clips": torch.as_tensor(clips).cpu().contiguous()})
        for attempt in range(self.retries + 1):
            self._wait_for_turn()
            wait = min(self.backoff * 2**attempt, LONGEST_WAIT)
            try:
                answer = self._post(body)
            except urllib.error.HTTPError as error:
                if error.code not in TURNED_AWAY:
                    count(len(clips))
                why = f"{error.code} {error.reason}: {error.read(300).decode('utf-8', 'replace')}".rstrip(": ")
                if error.code not in (*TURNED_AWAY, *FAILED):
                    raise ConnectionError(f"{self} refuses the request: {why}") from None
                asked_for = error.headers.get("Retry-After", "")
                wait = min(float(asked_for), LONGEST_WAIT) if asked_for.isdecimal() else wait
            except (OSError, HTTPException) as error:
                cause = error.reason if isinstance(error, urllib.error.URLError) else error
                if not _never_arrived(error):
                    count(len(clips))
                why = f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else str(cause)
            else:
                count(len(clips))
                return load(answer)  # which looks at every length that it claims
            if attempt < self.retries:
                time.sleep(wait)
        times = "the only attempt" if self.retries == 0 else f"any of {self.retries + 1} attempts, the last of them"
        raise ConnectionError(f"{self} did not answer {times}: {why}")

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/octet-stream", **self._headers}
        request = urllib.request.Request(self.url, body, headers, method="POST")
        with self._opener.open(request, timeout=self.timeout) as response:
            answer: bytes = response.read(LARGEST_ANSWER)
            return answer

    def _wait_for_turn(self) -> None:
        """Holds the rate of requests."""
        if self.per_second is not None:
            with self._turn:
                time.sleep(max(0.0, self._next - time.monotonic()))
                self._next = time.monotonic() + 1 / self.per_second


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _never_arrived(error: Exception) -> bool:
    """Whether there was no connection: no such host, or nobody listens there."""
    if not isinstance(error, urllib.error.URLError):
        return False
    reason = error.reason
    return not isinstance(reason, TimeoutError | ConnectionResetError | BrokenPipeError)


def _filled_in(name: str, value: str) -> str:
    """A header with the variables of the environment that it names."""
    filled = os.path.expandvars(value)
    if "$" in filled:
        raise SettingsError(f"Endpoint: the header {name!r} names a variable of the environment that is not set.")
    return filled
