"""python -m lm: every stage on models of a few weights, resumed runs, exact columns, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel import buffers
from accel.buffers import flat_of
from accel.checkpoint import CheckpointError, save
from accel.minimize import Config
from accel.ops import Params
from accel.sampling import Samples
from accel.transformer import log_likelihood
from accel.transformer_params import transformer_init
from lm import presets
from lm.__main__ import main
from lm.adapt import adapted, held_out_loss, labels
from lm.corpora.tilted import short, whole
from lm.exact_optima import sentence_cells
from lm.figure6 import Lengths, claims, total_variation
from lm.generate import Pairs, Written, discarded, judged, of_model, preference_pairs, written
from lm.presets import Course, Pretraining, Sizes
from lm.pretrain import distance, pretrained
from lm.report import STAGES
from lm.run import MODELS, Experiment, Settings, batch_of
from lm.streams import Purpose
from lm.table2 import table2
from tests import backends, checks
from tests.checks import CLOSED_FORM, assert_close
from tests.shim.build import compiler

TINY = presets.Preset(
    "quick",
    Sizes(emb_dim=8, num_heads=2, num_layers=1, mlp_dim=16),
    Pretraining(steps=24, batch=16, sentences=128, learning_rate=1e-2),
    courses=(Course(1, 1e-3), Course(2, 3e-3)),
    schedule="cosine",
    samples=48,
    judged=32,
    pairs=32,
    held_out=16,
    batch=8,
    exact=32,
)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here waits for a model to be good. Optima over cells take seconds: they have tests of their own."""
    monkeypatch.setitem(presets.PRESETS, "quick", TINY)
    monkeypatch.setattr("lm.table2.BUCKETS", 6)
    monkeypatch.setattr("lm.figure6.sentence_cells", lambda grammar, length: sentence_cells(grammar, length, 2))


def experiment(folder: Path, **settings: Any) -> Experiment:
    return Experiment(Settings(folder, ops="numpy", **settings))


def printed(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit status and the JSON lines of a command."""
    status = main([*words, "--out", str(folder), "--ops", "numpy", "--json"])
    return status, [json.loads(line, parse_constant=refuse) for line in capsys.readouterr().out.splitlines()]


def refuse(constant: str) -> None:
    """Python reads NaN and Infinity; JSON does not have them."""
    raise AssertionError(f"{constant} is not JSON")


def error_of(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command that cannot be done."""
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--out", str(folder), "--ops", "numpy"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_all_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every stage tells what it should; a second run computes nothing and tells the same, in 100 columns."""
    status, rows = printed(tmp_path, capsys, "all")
    assert status in (0, 1)  # such models need not come out as the paper says
    assert {row["stage"] for row in rows} == set(STAGES)
    of = {stage: [row for row in rows if row["stage"] == stage] for stage in STAGES}
    assert [row["model"] for row in of["pretrain"][:3]] == ["whole", "short", "long"]
    assert all(row["kl"] > 0 and row["kl_error"] > 0 for row in of["pretrain"][:3])
    assert len(of["table2"]) == 9
    for row in of["table2"]:
        assert set(row["exact"]) == set(row["trained"]) == {"P(S>M)", "P(S>L)", "P(M>L)"}
        assert all(0 <= value <= 1 for value in row["exact"].values())
    assert [(row["mixture"], row["scale"]) for row in of["adapt"]] == [
        ("annotator", 50.0), ("density", 50.0), ("annotator", 1.0), ("density", 1.0)
    ]  # fmt: skip
    for row in of["adapt"][:2]:
        best = min(row["courses"], key=lambda course: course["loss"])
        assert row["before"] > 0
        assert row["chosen"] == {"epochs": best["epochs"], "learning_rate": best["learning_rate"]}
    assert [row["before"] for row in of["adapt"][2:]] == [None, None]  # there was nothing to choose
    laws = [row for row in of["figure6"] if "shares" in row]
    assert len(laws) == 7
    for row in laws:
        assert sum(row["shares"]) == pytest.approx(1.0)
    assert status == int(not all(row["holds"] for row in of["figure6"] if "holds" in row))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz") if path.name != "figure6.npz"}
    assert printed(tmp_path, capsys, "all") == (status, rows)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert main(["all", "--out", str(tmp_path), "--ops", "numpy"]) == status
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at every other write of a file, again and again, it ends where an uninterrupted run does."""

    class Killed(BaseException):
        pass

    there, here = tmp_path / "there", tmp_path / "here"
    expected = adapted(experiment(there), "annotator", 50.0)
    writes, kills = [0], 0

    def save_or_die(*arguments: Any) -> None:
        writes[0] += 1
        if writes[0] % 3 == 2:
            raise Killed
        save(*arguments)

    monkeypatch.setattr("accel.minimize.save", save_or_die)
    monkeypatch.setattr("lm.run.save", save_or_die)
    while True:
        try:
            found = adapted(experiment(here), "annotator", 50.0)
            break
        except Killed:
            kills += 1
    assert kills >= 3
    assert found.losses == expected.losses
    for name, value in expected.params.items():
        assert np.array_equal(found.params[name], value)


def test_adaptation_lowers_the_loss(tmp_path: Path) -> None:
    """Of the pairs adapted on; and the course is chosen by the loss of the others."""
    run = experiment(tmp_path)
    pairs = preference_pairs(run)
    assert len(pairs.sentences.tokens) == 2 * (TINY.pairs + TINY.held_out)
    found = adapted(run, "density", 50.0)
    y = labels(run, pairs, "density", 50.0)
    assert found.losses[found.course] == held_out_loss(run, found.params, pairs, y, 50.0)
    assert found.losses[found.course] == min(found.losses.values())
    size = 2 * TINY.pairs
    seen = Pairs(Written(np.tile(pairs.sentences.tokens[:size], (2, 1)), 0), pairs.log_ps)
    twice = np.tile(y[: TINY.pairs], 2)
    before, after = (held_out_loss(run, p, seen, twice, 50.0) for p in (pretrained(run, "whole"), found.params))
    assert after < before


def test_the_held_out_loss_is_of_the_last_pairs_and_their_labels(tmp_path: Path) -> None:
    """Eq. 7 by hand on those pairs: neither sentences nor labels of those adapted on matter."""
    run = experiment(tmp_path)
    pairs, params, count = preference_pairs(run), pretrained(run, "whole"), TINY.pairs
    y = labels(run, pairs, "density", 50.0)
    tokens = pairs.sentences.tokens[2 * count :]
    rate = 50.0 * log_likelihood(run.ops, params, tokens, run.config) / np.count_nonzero(tokens, axis=1)
    margin = rate[0::2] - rate[1::2]
    last = y[count:]
    assert 0 < last.sum() < len(last)
    expected = np.mean(np.logaddexp(0, np.where(last == 1, -margin, margin)))  # -log sigmoid of what was chosen
    assert_close(held_out_loss(run, params, pairs, y, 50.0), expected, CLOSED_FORM)
    others = np.concatenate([1 - y[:count], last])
    assert held_out_loss(run, params, pairs, others, 50.0) == held_out_loss(run, params, pairs, y, 50.0)


def test_kl_of_a_model_is_the_mean_over_exact_sentences(tmp_path: Path) -> None:
    """KL(exact law || model) = E[log p] - E[log model], with the model's own log-likelihoods."""
    run = experiment(tmp_path)
    found = distance(run, "short")
    tokens = run.corpora.short.held_out(TINY.exact)
    assert found.kl is not None
    exact = short(run.corpora.grammar).log_prob(tokens).mean()  # type: ignore[arg-type]
    assert_close(found.kl, exact + found.nats, CLOSED_FORM)
    model = log_likelihood(run.ops, pretrained(run, "short"), tokens, run.config)
    gap = short(run.corpora.grammar).log_prob(tokens) - model  # type: ignore[arg-type]
    assert_close(found.kl_error or 0.0, np.sqrt(gap.var(ddof=1) / len(gap)), CLOSED_FORM)
    assert found.nats_per_token == pytest.approx(found.nats * len(tokens) / np.count_nonzero(tokens))


def test_exact_table_2(tmp_path: Path) -> None:
    """Under Eq. 12 times 50 the exact `short` prefers S to L, and `long` the reverse; Eq. 9 favours short ones."""
    rows = {(row.annotator, row.rule): row.exact for row in table2(experiment(tmp_path))}
    assert all(exact is not None for exact in rows.values())
    assert rows["short", "Eq. 12 x 50"]["P(S>L)"] > 0.95  # type: ignore[index]
    assert rows["long", "Eq. 12 x 50"]["P(S>L)"] < 0.05  # type: ignore[index]
    assert rows["long", "Eq. 9"]["P(S>L)"] > 0.9  # type: ignore[index]


def test_what_models_write_is_by_the_seed_and_the_purpose(tmp_path: Path) -> None:
    """Equal seeds give equal sentences; another purpose or seed gives others."""
    run = experiment(tmp_path / "a")
    params = pretrained(run, "whole")
    first = written(run, params, "first", 20, 30)
    again = written(experiment(tmp_path / "b"), params, "first", 20, 30)
    assert np.array_equal(first.tokens, again.tokens)
    assert not np.array_equal(first.tokens, written(run, params, "second", 20, 31).tokens)
    assert first.length_law().sum() == pytest.approx(1.0)
    assert np.bincount(first.lengths, minlength=51).tolist() == (20 * first.length_law()).round().tolist()


def test_what_is_discarded_is_a_share_of_the_draws() -> None:
    """3 of 12 draws ended; of sentences whose draws are not known it is not known."""
    tokens = np.full((3, 4), 2)
    assert discarded(Written(tokens, 12)) == 0.75
    assert np.isnan(discarded(Written(tokens, 0)))


def test_batches_bring_everything_once_each_time_round() -> None:
    """23 by 5: four batches of different rows, three rows wait; then another order; fewer than a batch is one."""
    rounds = [np.concatenate([batch_of(23, 5, step, seed=1) for step in range(4 * r, 4 * r + 4)]) for r in (0, 1)]
    for rows in rounds:
        assert len(set(rows.tolist())) == 20
    assert rounds[0].tolist() != rounds[1].tolist()
    assert sorted(batch_of(3, 5, 7, seed=0).tolist()) == [0, 1, 2]


def lengths(name: str, *places: int) -> Lengths:
    law = np.full(51, 1e-4)
    law[list(places)] += 1
    return Lengths(name, 50.0, law / law.sum(), None)


def test_claims() -> None:
    """Each fails alone when its part of the figure is not so."""
    before = [lengths("whole", *range(10, 45)), lengths("short", 10, 11, 24), lengths("long", 40, 41)]
    after = {"density": (10, 40), "annotator": (25,)}

    def held(**changed: tuple[int, ...]) -> list[bool]:
        return [c.holds for c in claims(before, [lengths(n, *p) for n, p in {**after, **changed}.items()])]

    assert held() == [True] * 4
    assert held(density=(25,)) == [False, False, True, True]
    assert held(density=(10, 19)) == [False, True, True, True]
    assert held(annotator=(22, 35)) == [True, True, False, True]
    assert held(annotator=(15,)) == [True, True, True, False]
    assert total_variation(before[1].trained, before[2].trained) > 0.99


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "--corpus", "nowhere.txt"], "nowhere.txt"),
        (["pretrain", "--seed", "-1"], "seed must be >= 0, got -1"),
        (["pretrain", "--vocab-size", "50"], "vocab_size and model are for text"),
        (["bake"], "argument STAGE: invalid choice: 'bake'"),
    ],
)
def test_refused(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr, exit status 2."""
    assert message in error_of(tmp_path, capsys, *words)


@pytest.mark.parametrize(
    ("where", "error", "told"),
    [
        ("transformer_init", MemoryError(), "no more memory"),
        ("cross_entropy_step", MemoryError("Unable to allocate 2 GiB"), "Unable to allocate 2 GiB"),
    ],
)
def test_out_of_memory(
    where: str,
    error: MemoryError,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before training and in it: one line with what the experiment has to lower."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(f"lm.pretrain.{where}", fail)
    line = error_of(tmp_path, capsys, "pretrain")
    assert line.startswith(
        f"error: out of memory ({told}): take --preset quick, or for text a smaller --vocab-size;"
    )
    assert str(tmp_path) in line


def test_empty_bins_are_null(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence is in one bin only: no comparison of bins has a trained value."""
    monkeypatch.setitem(presets.PRESETS, "quick", replace(TINY, judged=1))
    _, rows = printed(tmp_path, capsys, "table2")
    assert all(value is None for row in rows for value in row["trained"].values())


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_nothing_that_trains_shares_random_numbers_with_held_out_sentences(tmp_path: Path, seed: int) -> None:
    """NumPy's seeds forget zeros at their end: (0, 0) is (0, 0, 0)."""
    run = experiment(tmp_path, seed=seed)
    purposes = [purpose for purpose in Purpose if purpose != Purpose.HELD_OUT]
    training = {state(run.rng(*words)) for words in product(purposes, range(120), range(5))}
    held_out = [state(getattr(run.corpora, model).rng) for model in MODELS]
    assert len(training.union(held_out)) == len(training) + len(MODELS)


def state(rng: np.random.Generator) -> int:
    found: int = rng.bit_generator.state["state"]["state"]
    return found


def test_files_of_another_run_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first difference: another seed, other sizes; a torn file says that it is torn."""
    pretrained(experiment(tmp_path), "whole")
    with pytest.raises(CheckpointError, match=r"whole.npz belongs to another run: seed is 0 there and 1 here"):
        pretrained(experiment(tmp_path, seed=1), "whole")
    monkeypatch.setitem(presets.PRESETS, "quick", replace(TINY, sizes=replace(TINY.sizes, emb_dim=12)))
    with pytest.raises(CheckpointError, match="emb_dim is 8 there and 12 here"):
        pretrained(experiment(tmp_path), "whole")
    path = tmp_path / "models" / "whole.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is not a whole checkpoint"):
        pretrained(experiment(tmp_path), "whole")


def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One's own sentences: no exact columns and no claims, all else as with the grammar."""
    pytest.importorskip("sentencepiece")
    rng, grammar = np.random.default_rng(0), experiment(tmp_path).corpora.grammar
    assert grammar is not None
    rows = whole(grammar, 40).sample(1500, rng)
    path = tmp_path / "sentences.txt"
    path.write_text("".join(f"{grammar.text(row)}\n" for row in rows), encoding="utf-8")
    status, found = printed(tmp_path / "run", capsys, "all", "--corpus", str(path), "--vocab-size", "280")
    assert status == 0
    assert {row["stage"] for row in found} == set(STAGES)
    assert all(row["exact"] is None for row in found if row["stage"] == "table2")
    assert all(row["kl"] is None for row in found if row["stage"] == "pretrain")


def test_runs_of_other_text_or_tokenizers_are_refused(tmp_path: Path) -> None:
    """Though counts and vocabulary are the same: the lines in another order, and pieces of another text."""
    tokenizer = pytest.importorskip("lm.corpora.tokenizer")
    pytest.importorskip("sentencepiece")
    grammar = experiment(tmp_path).corpora.grammar
    assert grammar is not None
    lines = [grammar.text(row) for row in whole(grammar, 40).sample(1500, np.random.default_rng(0))]
    path, models = tmp_path / "sentences.txt", [tmp_path / "one.model", tmp_path / "other.model"]
    for model, part in zip(models, (lines, lines[:700]), strict=True):
        tokenizer.train_tokenizer(part, 240).save(model)

    def on(model: Path, lines: list[str]) -> None:
        path.write_text("\n".join(lines), encoding="utf-8")
        pretrained(experiment(tmp_path / "run", corpus=str(path), sentencepiece=model), "whole")

    on(models[0], lines)
    on(models[0], lines)
    for model, given, name in ((models[1], lines, "tokenizer"), (models[0], lines[::-1], "text")):
        with pytest.raises(
            CheckpointError, match=rf"whole.npz belongs to another run: {name} is \w+ there and \w+ h"
        ):
            on(model, given)


def test_ids_of_large_vocabularies_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 65,535 they need more than two bytes."""
    run = experiment(tmp_path)
    vars(run)["corpora"] = replace(run.corpora, vocab_size=70_000)
    tokens = np.array([[69_999, 65_536, 65_535, 2] + [0] * 46])
    monkeypatch.setattr("lm.generate.sample", lambda *_, **__: Samples(tokens, np.array([4]), np.zeros(1), 1))
    _, params = buffers.flatten({"weight": np.zeros(3)}, np)
    for _ in range(2):  # written, then read
        assert np.array_equal(written(run, params, "large", 1, 40).tokens, tokens)


def test_on_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretrained, sampled, judged and adapted on arrays that refuse to mix with NumPy's: to float32's roundings as
    on NumPy, step for step, until a sampled word differs."""
    if compiler() is None:
        pytest.skip("no g++: the kernels cannot run on this CPU")
    short_run = replace(TINY, pretraining=replace(TINY.pretraining, steps=2), samples=4, pairs=8, held_out=4)
    monkeypatch.setitem(presets.PRESETS, "quick", replace(short_run, exact=4, courses=(Course(1, 1e-3),)))
    expected = distance(experiment(tmp_path / "numpy"), "whole")
    monkeypatch.setattr("lm.run.get_ops", lambda name: backends.shim_ops(in_turn=True))
    run = Experiment(Settings(tmp_path / "device", ops="cupy"))
    found = distance(run, "whole")
    assert found.nats == pytest.approx(expected.nats, rel=checks.FLOAT32_STORED)
    model = adapted(run, "annotator", 50.0)
    sentences = written(run, model.params, "adapted", 4, 40)
    assert sentences.tokens.shape == (4, 50)


def test_stored_judgments_belong_to_their_sentences(tmp_path: Path) -> None:
    """Under one name, other sentences are not given the log-likelihoods of those judged before."""
    run = experiment(tmp_path)
    sentences = of_model(run, "whole")
    judged(run, "short", sentences, "some")
    with pytest.raises(CheckpointError, match="belongs to another run: tokens is"):
        judged(run, "short", Written(sentences.tokens[::-1].copy(), 0), "some")


def test_a_run_from_other_parameters_is_another(tmp_path: Path) -> None:
    """Under one name, training from other first parameters is not what was trained before."""
    run = experiment(tmp_path)
    config = Config(2, 1e-3)

    def gradient(params: Params, step: int) -> tuple[Any, Any]:
        return np.float32(0.0), np.zeros_like(flat_of(params))

    for seed in (0, 1):
        first = transformer_init(np.random.default_rng(seed), run.config)
        if seed:
            with pytest.raises(CheckpointError, match="belongs to another run: first parameters is"):
                run.minimized("models/x", {}, gradient, first, config, "x")
        else:
            run.minimized("models/x", {}, gradient, first, config, "x")
