"""docs/plugins.md shows the tested files, word for word.

``python tests/plugins/test_plugin_docs.py`` writes the files into it again.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "plugins.md"
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


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
