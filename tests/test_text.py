"""Text corpora: files, shards and gzip, tokenizers, encoded sentences, hard cuts, and every bad input."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from numpy.typing import NDArray

from accel.packing import pack
from lm import EOS, PAD, Corpora, coffee_grammar, load_corpus, sentence_lengths, whole
from lm.corpora.text_files import (
    LM1B,
    LM1B_HELD_OUT,
    LM1B_TRAINING,
    find_text,
    is_held_out,
    read_lines,
    some_lines,
)
from lm.corpora.token_store import HELD_OUT, LINES_AT_ONCE, TRAINING, encode, open_encoded
from lm.corpora.tokenizer import UNKNOWN, Tokenizer, load_tokenizer, train_tokenizer


def coffee_lines(count: int, seed: int = 0) -> list[str]:
    grammar = coffee_grammar()
    return [grammar.text(row) for row in whole(grammar).sample(count, np.random.default_rng(seed))]


ROOT = Path(__file__).parents[1]
LINES = coffee_lines(3000)
TOKENIZER = train_tokenizer(LINES, 200)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Corpora:
    """Of 3,000 lines in a plain file."""
    folder = tmp_path_factory.mktemp("text")
    return load_corpus(write(folder / "coffee.txt", LINES), vocab_size=200, cache=folder / "cache")


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rows(tokens: NDArray[Any]) -> set[tuple[int, ...]]:
    return {tuple(row) for row in tokens.tolist()}


def encoded(tokenizer: Tokenizer, lines: list[str], low: int = 1, high: int = 50) -> set[tuple[int, ...]]:
    """What lines of low to high tokens are as rows, by the definition."""
    return {tuple(ids + [PAD] * (50 - len(ids))) for ids in tokenizer.encode(lines) if low <= len(ids) <= high}


# ----- Lines -----


def test_a_file_and_a_gzip_file(tmp_path: Path) -> None:
    """The same lines, whatever the file is called; empty ones, space around them and a byte order mark go."""
    plain = tmp_path / "plain"
    plain.write_bytes("\ufeff one \r\n\n  \ntwo words\nthrée".encode())
    (tmp_path / "zipped").write_bytes(gzip.compress(plain.read_bytes()))
    assert list(read_lines(plain)) == list(read_lines(tmp_path / "zipped")) == ["one", "two words", "thrée"]


def test_a_folder_of_shards(tmp_path: Path) -> None:
    """In the order of their names, hidden files aside; a line is held out by what it says, not by where it is."""
    write(tmp_path / "b", LINES[100:200])
    (tmp_path / "a.gz").write_bytes(gzip.compress("\n".join(LINES[:100]).encode()))
    write(tmp_path / ".hidden", ["hidden"])
    found = list(find_text(tmp_path).lines())
    assert [line for line, _ in found] == LINES[:200]
    assert [held_out for _, held_out in found] == [is_held_out(line) for line in LINES[:200]]
    share = np.mean([is_held_out(line) for line in set(LINES)])
    assert 0.03 < share < 0.07


@pytest.mark.parametrize("inside", ["", LM1B])
def test_the_layout_of_lm1b(tmp_path: Path, inside: str) -> None:
    """Shards of both folders, those held out by the benchmark and only those; the archive's folder is optional."""
    write(tmp_path / inside / "README", ["not a sentence"])
    for k in (1, 2):
        shard = f"news.en-0000{k}-of-00100"
        write(tmp_path / inside / LM1B_TRAINING / shard, LINES[100 * k : 100 * k + 100])
    write(tmp_path / inside / LM1B_HELD_OUT / "news.en.heldout-00000-of-00050", LINES[:50])
    found = list(find_text(tmp_path).lines())
    assert [line for line, held_out in found if not held_out] == LINES[100:300]
    assert [line for line, held_out in found if held_out] == LINES[:50]


def test_some_lines() -> None:
    """All of them where there are few; else as many as asked, any as likely as another."""
    assert some_lines(LINES, 5000, 0) == LINES
    numbers = [str(i) for i in range(10)]
    kept = [some_lines(numbers, 3, seed) for seed in range(1000)]
    counts = np.bincount([int(line) for lines in kept for line in lines], minlength=10)
    assert counts.sum() == 3000
    assert np.abs(counts - 300).max() < 4 * np.sqrt(300 * 0.7)


# ----- Tokenizers -----


def test_tokenizer() -> None:
    """PAD = 0, EOS = 2, as large as asked or as the text supports; the same lines give the same model."""
    assert TOKENIZER.vocab_size == 200
    assert train_tokenizer(LINES, 200).model == TOKENIZER.model
    assert 200 < train_tokenizer(LINES).vocab_size < 30_000
    ids = TOKENIZER.encode(LINES[:200])
    for line, row in zip(LINES, ids, strict=False):
        assert row[-1] == EOS
        assert min(row[:-1]) > EOS
        assert TOKENIZER.decode([*row, PAD, PAD]) == TOKENIZER.decode([*row, *row]) == line
    assert TOKENIZER.decode(ids[0][:-1]) == LINES[0]


def test_special_tokens_in_text_are_text() -> None:
    """A line that spells out EOS does not end there."""
    (ids,) = TOKENIZER.encode(["tea </s> <pad> tea"])
    assert ids.count(EOS) == 1
    assert PAD not in ids


def test_a_model_without_padding_leaves_unknown_pieces_out(tmp_path: Path) -> None:
    """SentencePiece's defaults, those of the authors' model: 0 is the unknown piece, EOS 2, no padding. Sentences
    in which 0 would have to stand are left out and counted."""
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=writer, vocab_size=200, minloglevel=2
    )
    (tmp_path / "given.model").write_bytes(writer.getvalue())
    lines = [*LINES, "tea Ω tea", "Ω tea"]
    path = write(tmp_path / "coffee.txt", lines)
    given = load_corpus(path, model=tmp_path / "given.model", cache=tmp_path / "cache")
    assert given.vocab_size == 200
    pieces = sentencepiece.SentencePieceProcessor(model_proto=writer.getvalue()).encode(lines)
    short = [
        ids for ids in pieces if len(ids) < 50
    ]  # and the EOS; which letters have no piece is the trainer's choice
    unknown = sum(0 in ids for ids in short)
    assert 2 <= unknown < len(short) / 2
    assert f" {unknown} with token 0" in given.about
    assert given.decode(given.whole.held_out(1)[0]) in LINES
    with pytest.raises(ValueError, match="vocab_size must be the model's 200, or left out, got 100"):
        load_corpus(path, model=tmp_path / "given.model", vocab_size=100, cache=tmp_path / "cache")


# ----- Corpora -----


def test_the_three_corpora_have_the_paper_s_cuts(corpora: Corpora) -> None:
    """Every row is a line: all of up to 50 tokens in `whole`, of up to 20 in `short`, of 30 or more in `long`;
    what is trained on is never held out."""
    training = [line for line in LINES if not is_held_out(line)]
    held_out = [line for line in LINES if is_held_out(line)]
    for corpus, low, high in ((corpora.whole, 1, 50), (corpora.short, 1, 20), (corpora.long, 30, 50)):
        drawn = corpus.sample(20_000, np.random.default_rng(0))
        assert drawn.dtype == np.int64
        assert drawn.shape == (20_000, 50)
        kept = corpus.held_out(10_000)
        decoded = {corpora.decode(row) for row in drawn[:300]}
        assert decoded <= set(training)
        assert {corpora.decode(row) for row in kept} <= set(held_out)
        lengths = sentence_lengths(np.concatenate([drawn, kept]))
        assert low <= lengths.min()
        assert lengths.max() <= high
    assert corpora.vocab_size == 200
    assert corpora.grammar is None
    assert corpora.whole.exact is None


def test_all_sentences_are_drawn_alike(corpora: Corpora) -> None:
    """Each as likely as another: the lengths drawn are those of the lines, and nearly all come up."""
    model = load_tokenizer(next(Path(corpora.name).parent.glob("cache/*.model")))
    training = [line for line in LINES if not is_held_out(line)]
    lengths = np.array([len(ids) for ids in model.encode(training)])
    drawn = corpora.whole.sample(40_000, np.random.default_rng(1))
    expected = np.bincount(lengths[lengths <= 50], minlength=51) / np.count_nonzero(lengths <= 50)
    found = np.bincount(sentence_lengths(drawn), minlength=51) / len(drawn)
    assert np.abs(found - expected).max() < 4 * np.sqrt(expected.max() / len(drawn))
    assert rows(drawn) == encoded(model, training)
    held_out = corpora.whole.held_out(10_000)
    assert rows(held_out) == encoded(model, [line for line in LINES if is_held_out(line)])
    assert np.array_equal(held_out[:20], corpora.whole.held_out(20))
    assert len({len(row[row > 0]) for row in held_out[:20]}) > 5  # in no order of lengths


def test_tokenizers_do_not_see_what_is_held_out(tmp_path: Path) -> None:
    """A character of the held-out shards alone is no piece."""
    write(tmp_path / LM1B_TRAINING / "news.en-00001-of-00100", LINES)
    write(tmp_path / LM1B_HELD_OUT / "news.en.heldout-00000-of-00050", [f"{line} Ω" for line in LINES[:200]])
    found = load_corpus(tmp_path, cache=tmp_path / "cache")
    assert set(np.count_nonzero(found.whole.held_out(100) == UNKNOWN, axis=1)) == {1}
    assert not np.any(found.whole.sample(1000, np.random.default_rng(0)) == UNKNOWN)


def test_what_is_kept_is_used_again(tmp_path: Path, corpora: Corpora) -> None:
    """A second load writes nothing; other text or another vocabulary is made anew; a damaged one is refused."""
    path = write(tmp_path / "coffee.txt", LINES)
    first = load_corpus(path, vocab_size=200, cache=tmp_path / "cache")
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*")}
    again = load_corpus(path, vocab_size=200, cache=tmp_path / "cache")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*")} == kept
    for one in (again, corpora):
        assert np.array_equal(
            first.long.sample(9, np.random.default_rng(0)), one.long.sample(9, np.random.default_rng(0))
        )
    (block,) = (tmp_path / "cache").glob("*/training-020.ids")
    block.write_bytes(block.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"must be whole \(training-020.ids has another size\); delete it"):
        load_corpus(path, vocab_size=200, cache=tmp_path / "cache")
    assert load_corpus(path, vocab_size=210, cache=tmp_path / "cache").vocab_size == 210
    write(path, LINES[:2000])
    assert load_corpus(path, vocab_size=200, cache=tmp_path / "cache").about != first.about


def test_a_killed_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """Half-written sentences stand under another name, which a run clears a day later."""
    for name, age in (("kept.1-2.tmp", 100_000), ("kept.3-4.tmp", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "training-007.ids").write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    encode([(line, False) for line in LINES[:10]], TOKENIZER, tmp_path / "kept", 50)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "kept.3-4.tmp"]
    parts, _, _ = open_encoded(tmp_path / "kept")
    assert len(parts[TRAINING]) == len([ids for ids in TOKENIZER.encode(LINES[:10]) if len(ids) <= 50])
    assert len(parts[HELD_OUT]) == 0


def test_encoding_in_many_batches(tmp_path: Path) -> None:
    """The order of the text stays within a length; a wide vocabulary takes wider ids."""
    many = LINES * 2
    assert len(many) > LINES_AT_ONCE
    encode([(line, False) for line in many], TOKENIZER, tmp_path / "kept", 50)
    parts, left_out, _ = open_encoded(tmp_path / "kept")
    by_length: dict[int, list[list[int]]] = {}
    for ids in TOKENIZER.encode(many):
        by_length.setdefault(len(ids), []).append(ids)
    assert left_out["too long"] == sum(len(group) for length, group in by_length.items() if length > 50)
    for length, block in parts[TRAINING].ids.items():
        assert block.tolist() == by_length[length]


def test_the_grammar_has_the_same_interface(corpora: Corpora) -> None:
    """The calls of text corpora, and the exact laws besides; held-out sentences hang on the seed alone."""
    grammar = load_corpus("grammar", seed=3)
    assert grammar.grammar is not None
    for name in ("whole", "short", "long"):
        for one in (grammar, corpora):
            corpus = getattr(one, name)
            drawn, kept = corpus.sample(7, np.random.default_rng(0)), corpus.held_out(5)
            assert drawn.shape == (7, one.max_length)
            assert kept.shape == (5, one.max_length)
            assert np.array_equal(kept, corpus.held_out(5))
            assert one.decode(drawn[0])
            assert pack(drawn, one.vocab_size, one.max_length).lengths.max() <= 50
    assert np.array_equal(grammar.short.held_out(5), load_corpus(seed=3).short.held_out(5))
    assert not np.array_equal(grammar.short.held_out(5), load_corpus(seed=4).short.held_out(5))
    assert grammar.long.exact is not None
    assert np.isfinite(grammar.long.exact.log_prob(grammar.long.held_out(5))).all()


# ----- Bad input -----


def load(path: Path, **options: Any) -> Corpora:
    return load_corpus(path, cache=path.parent / "cache", **options)


def test_missing_paths(tmp_path: Path) -> None:
    """No such text, no such model, a folder without files."""
    with pytest.raises(
        ValueError, match=r'corpus must be "grammar", a text file or a folder, got .*gramar.*: no such'
    ):
        load(tmp_path / "gramar")
    with pytest.raises(ValueError, match=r"model must be a SentencePiece model file, got .*: no such file"):
        load(write(tmp_path / "text", LINES), model=tmp_path / "none.model")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".hidden").touch()
    with pytest.raises(ValueError, match="folder must hold text files, one sentence a line, got an empty folder"):
        load(tmp_path / "folder")


def test_no_usable_line(tmp_path: Path) -> None:
    """Nothing but space."""
    with pytest.raises(ValueError, match="blank must have lines with text to train on, got none"):
        load(write(tmp_path / "blank", ["", "  ", "\t"]))


def test_too_few_lengths(tmp_path: Path) -> None:
    """No sentence of 30 tokens or more to train `long` on; none held out; only sentences that are too long."""
    short = [line for line in LINES if len(line) < 40]
    with pytest.raises(ValueError, match="sentences of 30 to 50 tokens for `long`, got none for training"):
        load(write(tmp_path / "short", short))
    held_out = [line for line in LINES if not is_held_out(line)]
    with pytest.raises(ValueError, match="sentences of 1 to 50 tokens for `whole`, got none for held-out"):
        load(write(tmp_path / "unheld", held_out))
    with pytest.raises(ValueError, match=r"for `whole`, got none for training .*left out: 40 too long"):
        load(write(tmp_path / "lengthy", ["q w e r t z u i o p " * 10] * 40))


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    """The file and the line are named, in a gzip file too."""
    raw = "\n".join(LINES[:6]).encode() + b"\ncaf\xe9 au lait\n"
    (tmp_path / "latin").write_bytes(raw)
    with pytest.raises(ValueError, match=r"latin, line 7: text must be UTF-8, got byte 0xe9 at 3"):
        load(tmp_path / "latin")
    (tmp_path / "latin.gz").write_bytes(gzip.compress(raw))
    with pytest.raises(ValueError, match=r"latin.gz, line 7: text must be UTF-8"):
        load(tmp_path / "latin.gz")


@pytest.mark.parametrize("damage", ["torn", "flipped", "checksum"])
def test_damaged_gzip(tmp_path: Path, damage: str) -> None:
    """Cut off, with a wrong byte inside, and with a wrong checksum."""
    raw = bytearray(gzip.compress("\n".join(LINES).encode()))
    if damage == "torn":
        raw = raw[: len(raw) // 2]
    else:
        raw[len(raw) // 2 if damage == "flipped" else -6] ^= 0xFF
    (tmp_path / "torn.gz").write_bytes(raw)
    with pytest.raises(
        ValueError, match=r"torn.gz(, line \d+: text must be UTF-8| must be a whole gzip file, it br)"
    ):
        load(tmp_path / "torn.gz")


@pytest.mark.parametrize("raw", [b"", b"no model at all", TOKENIZER.model[: len(TOKENIZER.model) // 2]])
def test_bad_models(tmp_path: Path, raw: bytes) -> None:
    """An empty file, another file, and half a model."""
    (tmp_path / "bad.model").write_bytes(raw)
    with pytest.raises(ValueError, match=r"bad.model must be a SentencePiece model, it cannot be read as one"):
        load(write(tmp_path / "text", LINES), model=tmp_path / "bad.model")


def test_models_with_other_special_tokens(tmp_path: Path) -> None:
    """EOS must be 2 and padding 0."""
    writer = io.BytesIO()
    special: dict[str, Any] = {"pad_id": 3, "unk_id": 0, "bos_id": 2, "eos_id": 1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=writer, vocab_size=200, minloglevel=2, **special
    )
    (tmp_path / "other.model").write_bytes(writer.getvalue())
    with pytest.raises(ValueError, match=r"other.model must have EOS = 2 and PAD = 0 or none \(-1\), got 1 and 3"):
        load(write(tmp_path / "text", LINES), model=tmp_path / "other.model")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (20_000, r"vocab_size must be at most \d+ for this text, got 20000"),
        (5, r"vocab_size must be at least \d+ for the characters of this text, got 5"),
        (4, "vocab_size must be >= 5, 4 of them special, got 4"),
        (0, "vocab_size must be >= 5, 4 of them special, got 0"),
    ],
)
def test_bad_vocabulary_sizes(size: int, message: str) -> None:
    """More than the text supports, fewer than its characters, and too few for any piece of text."""
    with pytest.raises(ValueError, match=message):
        train_tokenizer(LINES, size)


@pytest.mark.parametrize("ends", [" ", "\r"])
def test_lines_that_are_too_long(tmp_path: Path, ends: str) -> None:
    """SentencePiece leaves lines of more than 4,192 bytes out; so is a whole file of which no line ends in \\n."""
    (tmp_path / "text").write_bytes(ends.join(LINES).encode())
    message = rf"must have lines of at most 4192 bytes, each ended by \\n, got {len(ends.join(LINES))} and more"
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "text")
    lines = ["é" * 2095 + "a", "é" * 2096, "é" * 2096 + "a"]  # 4,191 to 4,193 bytes
    assert train_tokenizer(lines[1:]).encode(["é"])[0][-1] == EOS
    with pytest.raises(ValueError, match="got 4193 and more"):
        train_tokenizer(lines[2:])


@pytest.mark.parametrize(
    "about",
    ["[]", '{"counts": [], "vocab_size": 200, "left_out": {}, "text": ""}', "3", '{"vocab_size": "200"}', "null"],
)
def test_a_damaged_description(tmp_path: Path, about: str) -> None:
    """JSON, but not what `encode` writes: the folder is named, and the cure."""
    encode([(line, False) for line in LINES[:10]], TOKENIZER, tmp_path / "kept", 50)
    (tmp_path / "kept" / "about.json").write_text(about)
    with pytest.raises(ValueError, match=r"kept must be whole \(.*\); delete it, and it is made again"):
        open_encoded(tmp_path / "kept")


@pytest.mark.parametrize("part", ["vocab_size", "counts", "left_out", "text"])
def test_a_description_without_a_part(tmp_path: Path, part: str) -> None:
    """Each of them is needed."""
    encode([(line, False) for line in LINES[:10]], TOKENIZER, tmp_path / "kept", 50)
    path = tmp_path / "kept" / "about.json"
    about = json.loads(path.read_text())
    del about[part]
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError, match=rf"kept must be whole \('{part}'\)"):
        open_encoded(tmp_path / "kept")


def test_settings_of_text_are_not_the_grammar_s() -> None:
    """The grammar's vocabulary is its own; a tokenizer needs lines; ids must be in the vocabulary."""
    with pytest.raises(ValueError, match='vocab_size and model are for text, the corpus "grammar" has its own'):
        load_corpus("grammar", vocab_size=100)
    with pytest.raises(ValueError, match="a tokenizer must have lines"):
        train_tokenizer([])
    with pytest.raises(ValueError, match=r"tokens must be ids in 0..199, got 200"):
        TOKENIZER.decode([5, 200])


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The install line, and nothing but text needs it."""
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"text corpora need sentencepiece; pip install 'pbde\[text\]'"):
        train_tokenizer(LINES)
    assert load_corpus().vocab_size > 200


ENCODE = """
import sys, time
from pathlib import Path
from lm.corpora.token_store import encode, open_encoded

folder, own, other = (Path(name) for name in sys.argv[1:])

class Words:
    vocab_size = 50
    def encode(self, lines):
        return [[3] * len(line) + [2] for line in lines]

def lines():
    for k in range(3 * 4096):
        if k == 4096:
            own.touch()
            while not other.exists():
                time.sleep(0.01)
        yield "word"[: 1 + k % 4], k % 3 == 0

encode(lines(), Words(), folder, 10)
assert [len(part) for part in open_encoded(folder)[0].values()] == [2 * 4096, 4096]
"""


def test_two_processes_encode_one_text(tmp_path: Path) -> None:
    """Both are in the middle of it at once: both succeed, the folder is whole, and nothing else is left."""
    names, folder = (str(tmp_path / "a"), str(tmp_path / "b")), tmp_path / "cache" / "text"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", ENCODE, str(folder), *order], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for order in (names, names[::-1])
    ]
    assert [(run.communicate(timeout=60)[1], run.returncode) for run in runs] == [("", 0)] * 2
    assert [len(part) for part in open_encoded(folder)[0].values()] == [2 * 4096, 4096]
    assert [path.name for path in folder.parent.iterdir()] == ["text"]
