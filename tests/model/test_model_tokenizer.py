"""Text survives the round trip, streams never show half a character, templates are sandboxed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from engine.errors import CheckpointError
from engine.model.chat import ChatTemplate
from engine.model.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "hi"}]


def _backend() -> Backend:
    """Every byte is one token, its id the order in the alphabet."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>"])
    return backend


BYTES = Tokenizer(_backend(), None)


@given(st.text())
def test_round_trip_and_stream_of_text(text: str) -> None:
    ids = BYTES.encode(text.replace("<|end|>", ""))
    stream, seen = BYTES.stream(), ""
    for token_id in ids:
        seen += stream.push(token_id)
        assert text.startswith(seen)
    assert seen + stream.flush() == BYTES.decode(ids) == text.replace("<|end|>", "")


@given(st.lists(st.integers(0, 256), max_size=60))
def test_stream_of_any_tokens_is_their_text(ids: list[int]) -> None:
    stream = BYTES.stream()
    pieces = [stream.push(token_id) for token_id in ids]
    assert "".join(pieces) + stream.flush() == BYTES.decode(ids)
    assert stream.flush() == ""


def test_stream_holds_back_half_characters() -> None:
    stream = BYTES.stream()
    assert [stream.push(i) for i in BYTES.encode("a\u20acb")] == ["a", "", "", "\u20ac", "b"]


def test_stream_holds_back_fallback_bytes() -> None:
    """Llama 2's tokenizer shows one replacement character for each byte of an unfinished one."""
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    backend = Backend(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    stream = Tokenizer(backend, None).stream()
    pieces = [stream.push(byte) for byte in "\U0001f600a".encode()]
    assert pieces == ["", "", "", "\U0001f600", "a"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _backend().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def _chat(folder: Path) -> str:
    tokenizer = Tokenizer.from_huggingface(folder)
    assert tokenizer is not None
    return tokenizer.decode(tokenizer.chat(HELLO))


def test_templates_of_a_folder(folder: Path) -> None:
    config = folder / "tokenizer_config.json"
    config.write_text(
        json.dumps({"bos_token": {"content": "B"}, "chat_template": "1{{bos_token}}"})
    )
    assert _chat(folder) == "1B"
    named = [{"name": "tool", "template": "t"}, {"name": "default", "template": "2"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert _chat(folder) == "2"
    (folder / "chat_template.jinja").write_text("3{{ messages[0]['content'] }}")
    assert _chat(folder) == "3hi"


def test_missing_and_damaged_tokenizers(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no chat template"):
        _chat(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer.json is not a valid tokenizer"):
        Tokenizer.from_huggingface(folder)
    (folder / "tokenizer.json").unlink()
    assert Tokenizer.from_huggingface(folder) is None


def test_template_conventions_of_transformers() -> None:
    source = (
        "{% for m in messages %}\n  {% if loop.first %}\n{{ m | tojson }}\n  {% endif %}\n"
        "{% break %}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
        "{{ strftime_now('%%') }}"
    )
    text = ChatTemplate(source, {}).render([{"role": "user", "content": "<\u00e9>"}])
    assert text == '{"role": "user", "content": "<\u00e9>"}\n>%'


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0]['content'] + 1 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    ],
)
def test_refused_messages_and_escapes_raise_value_error(source: str) -> None:
    with pytest.raises(ValueError, match="the chat template refuses these messages"):
        ChatTemplate(source, {}).render(HELLO)


def test_invalid_template() -> None:
    with pytest.raises(CheckpointError, match="chat template is invalid"):
        ChatTemplate("{% if %}", {})
