"""Flax checkpoints: files written by hand in the format, files that Flax writes and reads, and every bad file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from numpy.typing import NDArray

from accel import buffers
from accel.backends import get_ops
from accel.checkpoint import CheckpointError
from accel.transformer import log_likelihood
from accel.transformer_params import EMBEDDING, TransformerConfig, transformer_init
from lm.flax_checkpoint import read_flax, write_flax

CONFIG = TransformerConfig(vocab_size=11, emb_dim=6, num_heads=2, num_layers=2, qkv_dim=8, mlp_dim=5, max_len=512)
PARAMS = transformer_init(np.random.default_rng(0), CONFIG)
QUERY = "decoder/encoderdecoderblock_0/SelfAttention_0/query/kernel"
VALUE = "decoder/encoderdecoderblock_1/SelfAttention_0/value/kernel"


def tree_of(params: dict[str, Any]) -> dict[str, Any]:
    """Flat names as nested maps."""
    tree: dict[str, Any] = {}
    for name, value in params.items():
        *folders, leaf = name.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[leaf] = value
    return tree


def extension(array: NDArray[Any], dtype: str = "", kind: int = 1) -> msgpack.ExtType:
    """An array as the format has it, by hand."""
    return msgpack.ExtType(kind, msgpack.packb((array.shape, dtype or array.dtype.name, array.tobytes())))


def chunked(array: NDArray[Any], size: int) -> dict[str, Any]:
    """An array in flat chunks, as the format has large ones."""
    flat = array.reshape(-1)
    parts = [extension(flat[start : start + size]) for start in range(0, len(flat), size)]
    numbered = [{str(i): value for i, value in enumerate(values)} for values in (array.shape, parts)]
    return {"__msgpack_chunked_array__": True, "shape": numbered[0], "chunks": numbered[1]}


def stored(path: Path, params: dict[str, Any] = PARAMS, place: str = "params", **others: Any) -> Path:
    """A file by hand: the parameters under a place, "/" between its names, and other entries."""
    tree = tree_of({name: extension(value) for name, value in params.items()})
    for folder in reversed(place.split("/") if place else []):
        tree = {folder: tree}
    path.write_bytes(msgpack.packb({**tree, **others}))
    return path


def assert_params(found: dict[str, Any], expected: dict[str, Any] = PARAMS) -> None:
    """Equal to the bit, float32, in our order, in one buffer."""
    assert list(found) == list(expected)
    for name, value in found.items():
        assert value.dtype == np.float32
        assert np.array_equal(value, expected[name]), name
    assert buffers.flat_of(found).size == sum(value.size for value in expected.values())


# ----- The format by hand -----


@pytest.mark.parametrize("place", ["", "params", "params/params", "optimizer/target", "optimizer/target/params"])
def test_where_parameters_may_stand(tmp_path: Path, place: str) -> None:
    """Bare, in variables, in a TrainState, in an old optimizer; the sizes are read off."""
    found, config = read_flax(stored(tmp_path / "file", place=place))
    assert config == CONFIG
    assert_params(found)


def test_other_entries_are_passed_over(tmp_path: Path) -> None:
    """A step, moments with the same names, complex numbers, and what is no array at all."""
    moments = tree_of({name: extension(value + 1) for name, value in PARAMS.items()})
    others = {
        "opt_state": {"0": {"count": extension(np.array(3, np.int32), kind=3), "mu": moments}, "1": {}},
        "step": 7,
        "about": None,
        "phase": msgpack.ExtType(2, msgpack.packb((0.0, 1.0))),
    }
    found, _ = read_flax(stored(tmp_path / "file", **others), CONFIG)
    assert_params(found)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_floats_become_float32(tmp_path: Path, dtype: str) -> None:
    """bfloat16 is the upper half of a float32; float16 and float64 are rounded."""
    if dtype == "bfloat16":
        half = {name: (value.view(np.uint32) >> 16).astype(np.uint16) for name, value in PARAMS.items()}
        expected = {name: (value.astype(np.uint32) << 16).view(np.float32) for name, value in half.items()}
        worst = max(float(np.abs(expected[name] - value).max()) for name, value in PARAMS.items())
        assert 0 < worst < 2.0**-6  # values up to 4, cut off behind 8 bits
    else:
        half = {name: value.astype(dtype) for name, value in PARAMS.items()}
        expected = {name: value.astype(np.float32) for name, value in half.items()}
    tree = tree_of({name: extension(value, dtype) for name, value in half.items()})
    (tmp_path / "file").write_bytes(msgpack.packb(tree))
    assert_params(read_flax(tmp_path / "file")[0], expected)


@pytest.mark.parametrize("size", [1, 7, 66])
def test_chunks(tmp_path: Path, size: int) -> None:
    """Large arrays come in flat chunks, the last one shorter."""
    tree = tree_of({name: extension(value) for name, value in PARAMS.items()})
    tree["decoder"]["Embed_0"]["embedding"] = chunked(PARAMS[EMBEDDING], size)
    (tmp_path / "file").write_bytes(msgpack.packb({"params": tree}))
    assert_params(read_flax(tmp_path / "file", CONFIG)[0])


def test_written_and_read_again(tmp_path: Path) -> None:
    """To the bit, and with the same log-likelihoods; no other file is left behind."""
    write_flax(tmp_path / "file", PARAMS, CONFIG)
    found, config = read_flax(tmp_path / "file")
    assert_params(found)
    tokens = np.array([[5, 3, 2, 0], [7, 2, 0, 0]])
    ours, theirs = (log_likelihood(get_ops("numpy"), params, tokens, config) for params in (PARAMS, found))
    assert np.array_equal(ours, theirs)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ValueError, match="must have shape"):
        write_flax(tmp_path / "file", PARAMS, TransformerConfig(12, 6, 2, 2, 8, 5))


def test_max_len_is_as_given(tmp_path: Path) -> None:
    """No array tells how long sequences may be."""
    assert read_flax(stored(tmp_path / "file"), max_len=50)[1].max_len == 50


# ----- Flax itself -----


@pytest.fixture(scope="module")
def serialization() -> Any:
    """flax.serialization, where it is installed."""
    return pytest.importorskip("flax.serialization")


@pytest.mark.parametrize("top", ["bare", "params", "state"])
def test_a_file_that_flax_writes(tmp_path: Path, serialization: Any, top: str) -> None:
    """A tree, variables, and a TrainState with Adam's moments."""
    tree: Any = tree_of(PARAMS)
    if top == "params":
        tree = {"params": tree}
    if top == "state":
        optax, train_state = pytest.importorskip("optax"), pytest.importorskip("flax.training.train_state")
        tree = train_state.TrainState.create(apply_fn=None, params=tree, tx=optax.adam(1e-3))
    (tmp_path / "file").write_bytes(serialization.to_bytes(tree))
    found, config = read_flax(tmp_path / "file")
    assert config == CONFIG
    assert_params(found)


def test_chunks_and_bfloat16_that_flax_writes(
    tmp_path: Path, serialization: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of 64 bytes an array, so that nearly all of them come in chunks."""
    jnp = pytest.importorskip("jax.numpy")
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    rounded = {name: jnp.asarray(value, jnp.bfloat16) for name, value in PARAMS.items()}
    for params in (PARAMS, rounded):
        raw = serialization.msgpack_serialize(tree_of(params))
        assert b"__msgpack_chunked_array__" in raw
        (tmp_path / "file").write_bytes(raw)
        expected = {name: np.asarray(value, np.float32) for name, value in params.items()}
        assert_params(read_flax(tmp_path / "file")[0], expected)


def test_flax_reads_what_is_written_here(tmp_path: Path, serialization: Any) -> None:
    """By msgpack_restore, and into a template by from_bytes."""
    write_flax(tmp_path / "file", PARAMS, CONFIG)
    raw = (tmp_path / "file").read_bytes()
    template = {"params": tree_of({name: np.zeros_like(value) for name, value in PARAMS.items()})}
    for restored in (serialization.msgpack_restore(raw), serialization.from_bytes(template, raw)):
        expected = {"params": tree_of(PARAMS)}
        assert restored.keys() == expected.keys()
        for name, value in PARAMS.items():
            leaf = restored["params"]
            for part in name.split("/"):
                leaf = leaf[part]
            assert np.array_equal(leaf, value)


# ----- Bad files -----


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in PARAMS.items() if key != name}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (PARAMS | {VALUE: np.ones((6, 4, 2))}, rf"{VALUE} must have shape \(6, 2, 4\), got \(6, 4, 2\)"),
        (without("decoder/logitdense/bias"), r"decoder/logitdense/bias must have shape \(11,\), got nothing"),
        (
            PARAMS | {"decoder/logitdense/kernel": np.ones((6, 9))},
            r"kernel must have shape \(6, 11\), got \(6, 9\)",
        ),
        (PARAMS | {f"{QUERY[:-6]}bias": np.ones(8)}, r"query/bias must not be there, got \(8,\)"),
        (PARAMS | {"encoder/Embed_0/embedding": np.ones((3, 2))}, "encoder/Embed_0/embedding must not be there"),
        (PARAMS | {EMBEDDING: np.ones((11, 6), np.int32)}, "must hold floats, decoder/Embed_0/embedding is int32"),
    ],
)
@pytest.mark.parametrize("config", [CONFIG, None])
def test_another_architecture(
    tmp_path: Path, params: dict[str, Any], message: str, config: TransformerConfig | None
) -> None:
    """The first tensor that differs, in the order of the model, whether the sizes are given or read off."""
    with pytest.raises(CheckpointError, match=message):
        read_flax(stored(tmp_path / "file", params), config)


def test_the_first_tensor_that_differs_is_named(tmp_path: Path) -> None:
    """Other sizes than asked: the embedding before all others; fewer layers: what the missing one begins with."""
    path = stored(tmp_path / "file")
    wider = TransformerConfig(12, 6, 2, 2, 8, 5)
    with pytest.raises(CheckpointError, match=rf"{EMBEDDING} must have shape \(12, 6\), got \(11, 6\)"):
        read_flax(path, wider)
    deeper = TransformerConfig(11, 6, 2, 3, 8, 5)
    name = "decoder/encoderdecoderblock_2/LayerNorm_0/scale"
    with pytest.raises(CheckpointError, match=rf"{name} must have shape \(6,\), got nothing"):
        read_flax(path, deeper)
    shallower = TransformerConfig(11, 6, 2, 1, 8, 5)
    with pytest.raises(CheckpointError, match=r"encoderdecoderblock_1/LayerNorm_0/scale must not be there"):
        read_flax(path, shallower)


@pytest.mark.parametrize("name", [QUERY, "decoder/encoderdecoderblock_0/MlpBlock_0/Dense_0/kernel"])
def test_sizes_that_cannot_be_read_off(tmp_path: Path, name: str) -> None:
    """A tensor that tells sizes is missing, or has other axes."""
    with pytest.raises(CheckpointError, match=f"{name} must have . axes, got nothing"):
        read_flax(stored(tmp_path / "file", without(name)))
    with pytest.raises(CheckpointError, match=rf"{name} must have . axes, got \(3,\)"):
        read_flax(stored(tmp_path / "file", PARAMS | {name: np.ones(3, np.float32)}))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated(tmp_path: Path, share: float) -> None:
    """Wherever the file breaks off."""
    path = stored(tmp_path / "file")
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(CheckpointError, match=r"file is truncated: it breaks off at [\d,]+ bytes; copy it again"):
        read_flax(path)


@pytest.mark.parametrize(
    "raw",
    [
        b"PK\x03\x04 a zip",
        b"a line of text\n",
        b"\xc1",
        b"\x81\xa1a\xc7\x02\x01\x07\x07",  # an extension that holds no array
        msgpack.packb({"a": extension(np.ones(3), "float16")}),
        msgpack.packb({"a": extension(np.ones(3), "object")}),
        msgpack.packb({"a": extension(np.ones(3), "nonsense")}),
        msgpack.packb({"a": {"__msgpack_chunked_array__": True}}),
        msgpack.packb({"a": 1}) + b"more",
    ],
)
def test_no_checkpoint(tmp_path: Path, raw: bytes) -> None:
    """Other files, damaged arrays, and bytes behind the end."""
    (tmp_path / "file").write_bytes(raw)
    with pytest.raises(CheckpointError, match="file must be a Flax checkpoint, it is no msgpack of arrays"):
        read_flax(tmp_path / "file")


@pytest.mark.parametrize("tree", [7, {}, {"params": {"Dense_0": {"kernel": extension(np.ones(3))}}}])
def test_no_language_model(tmp_path: Path, tree: Any) -> None:
    """A tree without a decoder: what it has instead is said."""
    (tmp_path / "file").write_bytes(msgpack.packb(tree))
    with pytest.raises(
        CheckpointError, match=r"must hold an lm1b decoder, .*got (no array|params/Dense_0/kernel)"
    ):
        read_flax(tmp_path / "file")


def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The install line; a missing file is an OSError as everywhere."""
    path = stored(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        read_flax(tmp_path / "none")
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ImportError, match=r"Flax checkpoints need msgpack; pip install 'pbde\[text\]'"):
        read_flax(path)
