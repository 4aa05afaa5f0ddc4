"""Clients that keep a server busy: each sends its request again when it is answered."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from served import Server, httpx


@contextlib.contextmanager
def load(
    server: Server, requests: Sequence[tuple[int, int]], model: str = "tiny"
) -> Iterator[None]:
    """One client for each (tokens of the prompt, tokens of the answer)."""
    over = threading.Event()
    clients = [
        threading.Thread(target=_client, args=(server.url, model, number, *one, over))
        for number, one in enumerate(requests)
    ]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        over.set()
        for client in clients:
            client.join()


def _client(
    url: str, model: str, number: int, num_prompt: int, num_output: int, over: threading.Event
) -> None:
    body = {
        "model": model,
        "prompt": [(11 * number + 5 * token + 1) % 256 for token in range(num_prompt)],
        "max_tokens": num_output,
        "ignore_eos": True,
        "stream": True,
    }
    with httpx.Client(base_url=url, timeout=600) as http:
        while not over.is_set():
            with (
                contextlib.suppress(httpx.TransportError),  # a gateway was killed
                http.stream("POST", "/v1/completions", json=body) as answer,
            ):
                for _ in answer.iter_lines():
                    if over.is_set():
                        break
