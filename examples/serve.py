"""A server for a victim behind an address, in nothing but the standard library and safetensors.

    python examples/serve.py --victim movinet_a0 --port 8000
    vidmarl attack clip.mp4 --victim http://127.0.0.1:8000 --attack grow_and_reduce --out results \
        --spec '{"frames": 16, "size": 172}'

It takes a POST of a file of safetensors with "clips", float32[b 3 t h w] in [0, 1], and answers
with one that has "logits", float32[b k], or with --decisions the index of a class alone,
"decisions", int64[b]. Nothing that it is sent is unpickled. It listens on this machine only, unless
told otherwise, and speaks no TLS. With the variable SERVE_KEY in the environment it wants that key
in the header X-Key:

    SERVE_KEY=secret python examples/serve.py --victim movinet_a0
    vidmarl check clip.mp4 --spec '{"frames": 16, "size": 172}' --victim \
        '{"class_path": "http://127.0.0.1:8000", "init_args": {"headers": {"X-Key": "$SERVE_KEY"}}}'
"""

from __future__ import annotations

import argparse
import hmac
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from safetensors import SafetensorError
from safetensors.torch import load, save

from vidmarl import Victim, load_victim
from vidmarl.errors import ClipError, VictimError
from vidmarl.victims.decisions import decisions_only

LARGEST = 2**30  # bytes of a request


class Server(ThreadingHTTPServer):
    """Answers what a victim says.

    Args:
        address: host and port; port 0 is any that is free.
        victim: who is asked. It counts what it was asked.
        key: what the header X-Key must hold; None: nothing.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], victim: Victim, key: str | None = None) -> None:
        super().__init__(address, Answer)
        self.victim = victim
        self.key = key


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    timeout = 60  # seconds for a client that stops in the middle

    def do_POST(self) -> None:
        """Scores for clips."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST:
            self.close_connection = True
            return self._say(413, f"expected a Content-Length of at most {LARGEST}")
        body = self.rfile.read(int(length))
        key = self.server.key
        if key is not None and not hmac.compare_digest(self.headers.get("X-Key", "").encode(), key.encode()):
            return self._say(401, "expected the key in the header X-Key")
        try:
            scores = self.server.victim(load(body)["clips"])
        except (SafetensorError, KeyError) as error:
            return self._say(400, f"expected a file of safetensors with 'clips': {error}")
        except ClipError as error:
            return self._say(400, str(error))
        except VictimError as error:
            return self._say(500, str(error))
        said = {"decisions": scores.argmax(1)} if self.server.victim.decisions_only else {"logits": scores}
        return self._say(200, save({name: values.cpu().contiguous() for name, values in said.items()}))

    def _say(self, code: int, what: bytes | str) -> None:
        content = what.encode() if isinstance(what, str) else what
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing of every request."""


def main() -> None:
    """Serves until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serves a victim over HTTP.")
    parser.add_argument("--victim", required=True, help="a name of `vidmarl list victims`, or file.py:make_victim")
    parser.add_argument("--weights", help="its weight file, or 'random'")
    parser.add_argument("--host", default="127.0.0.1", help="where it listens (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--decisions", action="store_true", help="answer with the class alone, without scores")
    args = parser.parse_args()
    victim = load_victim(args.victim, args.weights)
    victim = decisions_only(victim) if args.decisions else victim
    with Server((args.host, args.port), victim, os.environ.get("SERVE_KEY")) as server:
        print(f"{victim} at http://{args.host}:{server.server_port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(f"{victim.queries} queries")


if __name__ == "__main__":
    main()
