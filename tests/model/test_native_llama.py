"""Protects the C++ decoder layer: right for every family, and a row's bits are its own."""

import pytest
import torch
from model.dense_backend import DenseBackend
from model.plain import load_plain
from processors import needs_decoder, needs_int8
from tiny_models import FAMILIES, make_tiny, reference_logits

from engine.attention.kernel_backend import NativeBackend
from engine.core import BlockLayout, BlockRef, Plan, Span
from engine.memory.reference import ReferencePool
from engine.model import checkpoint as checkpoints
from engine.model import native_llama
from engine.model.llama import Llama
from engine.model.native_llama import NativeLlama

PROMPT = torch.randint(0, 128, (140,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def load(path, **options):
    return checkpoints.load(str(path), "bfloat16", **options)


def run(model, token_ids, first=0, backend=None):
    """Logits of all rows."""
    rows = torch.arange(len(token_ids))
    backend = backend or DenseBackend(model.config.num_layers)
    return model.forward(torch.tensor(token_ids), first + rows, rows, backend)


@needs_decoder
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"head_dim": 32},
        {"hidden_size": 72, "intermediate_size": 50, "num_attention_heads": 4, "head_dim": 18},
        {"tie_word_embeddings": True},
        {"intermediate_size": 51, "vocab": 130},
    ],
    ids=["plain", "wide heads", "odd sizes", "tied", "odd depth"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_no_further_from_the_truth_than_torch_is(tmp_path, family, settings):
    path = make_tiny(tmp_path / "model", family, seed=3, **settings)
    checkpoint = load(path)
    assert type(checkpoint.model) is NativeLlama
    truth = reference_logits(path, PROMPT)
    ours = (run(checkpoint.model, PROMPT) - truth).abs().mean()
    plain = load_plain(str(path), "bfloat16")
    assert type(plain.model) is Llama
    theirs = (run(plain.model, PROMPT) - truth).abs().mean()
    assert ours <= 1.2 * theirs + 1e-3 * truth.std()


@needs_decoder
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("quantization", ["none", pytest.param("int8", marks=needs_int8)])
def test_the_bits_of_a_row_depend_on_neither_rows_nor_threads(tmp_path, threads, quantization):
    path = make_tiny(tmp_path / "model", intermediate_size=100)
    model = load(path, quantization=quantization).model
    torch.set_num_threads(1)
    whole = run(model, PROMPT)
    torch.set_num_threads(threads)
    backend, first = DenseBackend(model.config.num_layers), 0
    for size in (1, 2, 3, 4, 5, 8, 7, 70, 40):
        part = run(model, PROMPT[first : first + size], first, backend)
        assert torch.equal(part, whole[first : first + size])
        first += size


class Steps:
    """Two sequences over a native backend: three chunks of one with decodes of the other."""

    def __init__(self, checkpoint, threads, *, whole):
        config = checkpoint.config
        self.model = checkpoint.model
        shape = config.shape
        layout = BlockLayout(
            layers=shape.num_layers,
            kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            tokens=16,
            dtype="bfloat16",
        )
        self.pool = ReferencePool(ReferencePool.Config(), layout=layout, num_blocks=12)
        self.backend = NativeBackend(
            NativeBackend.Config(),
            shape=shape,
            layout=layout,
            pool=self.pool,
            num_threads=threads,
        )
        if not whole:
            self.backend.native_step = lambda q_THD: None

    def run(self):
        """All logits, and all bytes of the pool."""
        tables = [tuple(BlockRef(0, block) for block in blocks) for blocks in (range(9), (10, 9))]
        logits, done = [], [0, 0]
        for sizes in ((70, 1), (1, 8), (66, 3), (1, 1)):
            spans, token_ids = [], []
            for sequence, rows in enumerate(sizes):
                spans.append(
                    Span(sequence, len(token_ids), rows, done[sequence], tables[sequence], 1)
                )
                token_ids += PROMPT[done[sequence] : done[sequence] + rows]
                done[sequence] += rows
            self.backend.begin(Plan(1, tuple(token_ids), tuple(spans)))
            positions = [torch.arange(s.num_rows) + s.first_position for s in spans]
            rows = torch.arange(len(token_ids))
            ids = torch.tensor(token_ids)
            logits.append(self.model.forward(ids, torch.cat(positions), rows, self.backend))
            assert self.backend.end() == frozenset()
        return torch.cat(logits), bytes(self.pool.region)


@needs_decoder
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("head_dim", [16, 18])
def test_all_layers_in_one_call_have_the_bits_of_one_after_the_other(tmp_path, threads, head_dim):
    checkpoint = load(make_tiny(tmp_path / "model", head_dim=head_dim, intermediate_size=100))
    torch.set_num_threads(1)
    logits, memory = Steps(checkpoint, 1, whole=False).run()
    torch.set_num_threads(threads)
    for whole in (False, True):
        again, again_memory = Steps(checkpoint, threads, whole=whole).run()
        assert torch.equal(again, logits)
        assert again_memory == memory


@needs_decoder
def test_logits_are_of_the_rows_that_are_wanted(tmp_path):
    model = load(make_tiny(tmp_path / "model")).model
    whole = run(model, PROMPT)
    tokens, backend = torch.tensor(PROMPT), DenseBackend(model.config.num_layers)
    wanted = torch.tensor([17, 3, 139])
    assert torch.equal(model.forward(tokens, torch.arange(140), wanted, backend), whole[wanted])


@needs_decoder
@pytest.mark.parametrize(("token", "position"), [(128, 0), (-1, 0), (0, 512), (0, -1)])
def test_what_is_no_token_or_position_reads_no_other_memory(tmp_path, token, position):
    model = load(make_tiny(tmp_path / "model")).model
    assert (model.config.vocab_size, model.config.max_positions) == (128, 512)
    numbers = [torch.tensor([number]) for number in (token, position, 0)]
    with pytest.raises(IndexError, match="0 to 127, or a position not in 0 to 511"):
        model.forward(*numbers, DenseBackend(model.config.num_layers))


@needs_decoder
def test_no_row_may_be_wanted(tmp_path):
    model = load(make_tiny(tmp_path / "model")).model
    none = torch.arange(0)
    logits = model.forward(
        torch.tensor(PROMPT), torch.arange(140), none, DenseBackend(model.config.num_layers)
    )
    assert logits.shape == (0, 128)


@pytest.mark.parametrize("lack", ["processor", "dtype"])
def test_without_what_it_needs_torch_does_it(tmp_path, monkeypatch, lack):
    if lack == "processor":
        monkeypatch.setattr(native_llama, "processor_flags", frozenset)
    dtype = "bfloat16" if lack == "processor" else "float32"
    checkpoint = checkpoints.load(str(make_tiny(tmp_path / "model")), dtype)
    assert type(checkpoint.model) is Llama
