"""Pictures of the live page over four true instances of SmolLM2: ``PAGE_PICTURES=docs/images``."""

import os
from io import BytesIO
from pathlib import Path

import pytest
from browser import Look, chromium
from load import load
from PIL import Image
from served import Server

FOLDER = os.environ.get("PAGE_PICTURES", "")
REQUESTS = [(2300, 1200), (1900, 1500), (700, 900), (500, 700), (300, 120), (200, 90), (100, 60)]
"""tokens of prompts and answers; a pool holds 2,048"""
PICTURES = {
    "page-light": (1200, "light"),
    "page-dark": (1200, "dark"),
    "page-phone": (390, "light"),
}
COLOURS = 256
MAX_BYTES = 200_000


@pytest.mark.skipif(not FOLDER, reason="PAGE_PICTURES names no folder to write to")
def test_pictures():
    server = Server(
        "smollm2",
        4,
        "model.dtype=bfloat16",
        "pool.num_blocks=32",
        "pool.block_tokens=64",
        "scheduler.max_step_tokens=256",
        "scheduler.lease_s=30",
        "serve.model_name=smollm2",
    )
    try:
        server.wait_until(server.ready)
        with chromium() as browser, load(server, REQUESTS, "smollm2"):
            for name, (width, scheme) in PICTURES.items():
                context = browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme
                )
                look = Look(context.new_page())
                look.open(server.url)
                look.wait_for("document.querySelectorAll('#graph .blocks').length > 1")
                look.wait_for("window.heard.history.length > 240")
                path = Path(FOLDER) / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = Image.open(BytesIO(look.page.screenshot(full_page=True)))
                assert look.complaints == []
                assert picture.width == width
                picture.convert("RGB").quantize(COLOURS, dither=0).save(path, optimize=True)
                assert path.stat().st_size < MAX_BYTES
                context.close()
    finally:
        server.stop()
