"""docs/plugins.md shows the tested files, word for word.

``python tests/plugins/test_plugin_docs.py`` writes the files into it again.
"""

import re
from pathlib import Path

from engine.config import Config
from engine.model.checkpoint import require_tokenizer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "plugins.md"
COMMAND = re.compile(r"pool\.num_blocks=(\d+) --prompt-file \.\./\.\./(\S+)")
BLOCK = re.compile(r"(?<=`)(tests/plugins/[^`\s]+)`:\n\n```(\w+)\n(.*?)```", re.DOTALL)


def written(page: str) -> str:
    """The page with every named file as it is now."""
    return BLOCK.sub(
        lambda at: f"{at[1]}`:\n\n```{at[2]}\n{(ROOT / at[1]).read_text()}```",
        page,
    )


def test_the_page_shows_the_files_as_they_are():
    page = PAGE.read_text()
    assert written(page) == page, "run python tests/plugins/test_plugin_docs.py"


def test_the_page_shows_every_example_and_no_other_code():
    page = PAGE.read_text()
    shown = [at[1] for at in BLOCK.finditer(page)]
    examples = Path(__file__).parent.glob("example_*")
    assert sorted(shown) == sorted(str(path.relative_to(ROOT)) for path in examples)
    assert len(re.findall(r"^```(?:python|yaml)", page, re.MULTILINE)) == len(shown)


def test_the_page_names_every_contract_and_its_file():
    for name in re.findall(r"`((?:tests|engine)/[\w/]+\.py)", PAGE.read_text()):
        assert (ROOT / name).exists(), name


def test_the_prompt_of_the_command_needs_both_pools_and_no_more():
    found = COMMAND.search(PAGE.read_text())
    assert found is not None
    config, blocks = Config(), int(found[1])
    tokenizer = require_tokenizer(config.model.path, library=config.model.library)
    num_tokens = len(tokenizer.encode((ROOT / found[2]).read_text())) + config.generate.max_tokens
    assert blocks < num_tokens / config.pool.block_tokens < 1.8 * blocks


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
