"""PBDEs, annotators, populations, proposals, comparisons: their laws, and every bad input with its own error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from reference import PBDE, Annotator, Comparisons, Population, optimum, targets, win_matrix
from reference.comparison_files import read_lengths
from reference.comparisons import draw_pairs
from reference.pbde import log_mass, normalize
from tests.checks import CLOSED_FORM, SOLVED, assert_close
from tests.strategies import arrays, log_densities, models, proposals, sizes

UNIFORM = np.log(np.full(4, 0.25))


@given(st.data(), sizes, st.floats(1, 300))
def test_log_p_inverts_omega(data: st.DataObject, n: int, spread: float) -> None:
    """model.log_p is normalised against its measure and has Omega = omega + a constant, over hundreds of nats."""
    model, omega = data.draw(models(n)), data.draw(arrays(n, -spread, spread))
    measure = np.exp(data.draw(arrays(n, -3.0, 3.0)))
    log_p = model.log_p(omega, measure)
    f = np.asarray(model.f)
    assert_close(log_mass(log_p, measure), 0.0, CLOSED_FORM, scale=1 + spread / f.min())
    assert_close(np.ptp(model.omega(log_p) - omega), 0.0, CLOSED_FORM, scale=1 + spread)


@given(st.data(), sizes)
def test_preferences_of_both_triangles_are_exact(data: st.DataObject, n: int) -> None:
    """P + P^T = 1, and far in the tails P is exp(margin) to full relative precision."""
    annotator = Annotator(data.draw(log_densities(n)), data.draw(models(n)))
    prob = annotator.preference_prob()
    assert_close(prob + prob.T, np.ones((n, n)), 1e-15)
    far = Annotator(normalize(np.array([0.0, -650.0])), PBDE.luce()).preference_prob()
    assert far[1, 0] == pytest.approx(np.exp(-650.0), rel=1e-12)
    assert far[0, 1] == 1.0


def test_constructors_are_their_equations() -> None:
    """Eq. 9, 12, 16 and 19, written out."""
    log_p = normalize(np.array([0.3, -1.0, 0.5, -0.2]))
    pre, lengths = UNIFORM + 0.0, np.array([1, 2, 3, 4])
    assert_close(PBDE.luce().omega(log_p), log_p, CLOSED_FORM)
    assert_close(PBDE.length_normalized(lengths, 50).omega(log_p), 50 * log_p / lengths, CLOSED_FORM)
    assert_close(PBDE.dpo(0.1, pre).omega(log_p), 0.1 * (log_p - pre), CLOSED_FORM)
    assert_close(PBDE.geometric(0.25, pre).omega(log_p), 4 * log_p - 3 * pre, CLOSED_FORM)


def test_population_and_density_mixture() -> None:
    """Eq. 21 averages the preferences, Eq. 20 the densities."""
    first, second = normalize(np.array([3.0, 0, 0])), normalize(np.array([0, 0, 2.0]))
    crowd = Population([Annotator(first, PBDE.luce()), Annotator(second, PBDE.luce())], [0.4, 0.6])
    p, q = np.exp(first), np.exp(second)
    assert_close(
        crowd.preference_prob()[0, 2], 0.4 * p[0] / (p[0] + p[2]) + 0.6 * q[0] / (q[0] + q[2]), CLOSED_FORM
    )
    assert_close(np.exp(np.asarray(crowd.density_mixture().log_p)), 0.4 * p + 0.6 * q, CLOSED_FORM)


def test_sampled_choices_have_their_probabilities() -> None:
    """40,000 choices of each ordered pair agree with preference_prob within five standard errors."""
    rng = np.random.default_rng(0)
    first, second = normalize(rng.normal(size=3)), normalize(rng.normal(size=3))
    one = Annotator(first, PBDE.luce())
    for source in (one, Population([one, Annotator(second, PBDE.luce())], [0.3, 0.7])):
        prob = source.preference_prob()
        for a, b in ((0, 1), (2, 0)):
            y = source.sample(np.full(40_000, a), np.full(40_000, b), rng)
            assert abs(y.mean() - prob[a, b]) < 5 * np.sqrt(prob[a, b] * prob[b, a] / 40_000)


@given(st.data(), sizes)
def test_win_matrix(data: st.DataObject, n: int) -> None:
    """Sums to 1, leaves out self-pairs, ignores the order in a pair, and is one for dense and sparse proposals."""
    annotator, proposal = Annotator(data.draw(log_densities(n)), PBDE.luce()), data.draw(proposals(n))
    prob = annotator.preference_prob()
    wins = win_matrix(prob, proposal)
    assert_close(wins.sum(), 1.0, CLOSED_FORM)
    assert not wins.diagonal().any()
    assert_close(win_matrix(prob, proposal.T), wins, CLOSED_FORM)
    assert_close(win_matrix(prob, sparse.csr_array(proposal)).toarray(), wins, CLOSED_FORM)
    q = np.exp(data.draw(log_densities(n)))
    assert_close(win_matrix(prob, q), win_matrix(prob, np.outer(q, q)), CLOSED_FORM)


def test_drawn_pairs_and_counts_follow_the_win_matrix() -> None:
    """200,000 sampled comparisons, counted, are the win matrix within five binomial standard errors."""
    rng = np.random.default_rng(4)
    annotator = Annotator(normalize(rng.normal(size=4)), PBDE.luce())
    proposal = rng.dirichlet(np.ones(16)).reshape(4, 4)
    x_a, x_b = draw_pairs(proposal, 200_000, 4, rng)
    counted = Comparisons(x_a, x_b, annotator.sample(x_a, x_b, rng), 4).wins().toarray() / 200_000
    expected = win_matrix(annotator.preference_prob(), proposal)
    assert (np.abs(counted - expected) <= 5 * np.sqrt(expected / 200_000)).all()


def test_wins_count_ties_weights_and_self_comparisons() -> None:
    """Half a win each for a tie, weights multiply, self-comparisons are dropped and counted."""
    data = Comparisons([0, 1, 2, 0, 1], [1, 0, 2, 2, 2], [1, 1, 1, 0.5, 0.25], 3, weight=[2, 1, 9, 3, 4])
    assert data.dropped == 1
    assert data.ties == 3
    assert len(data) == 4
    assert data.wins().toarray().tolist() == [[0, 2, 1.5], [1, 0, 1], [1.5, 3, 0]]


@given(st.data(), sizes, st.floats(0.1, 5))
def test_ipo_is_its_least_squares(data: st.DataObject, n: int, tau: float) -> None:
    """Both forms solve the least squares over pairs, and agree for independent draws, whatever stands on the
    diagonal."""
    log_p, pre = data.draw(log_densities(n)), data.draw(log_densities(n))
    q = np.exp(data.draw(log_densities(n, 1.5)))
    prob = Annotator(log_p, PBDE.luce()).preference_prob().copy()
    np.fill_diagonal(prob, data.draw(st.floats(0, 1)))
    closed = targets.ipo(prob, q, pre, tau)
    assert_close(targets.ipo(prob, np.outer(q, q) / q.sum() ** 2, pre, tau), closed, SOLVED)
    a, b = np.triu_indices(n, 1)
    design = np.zeros((len(a), n))
    design[np.arange(len(a)), a], design[np.arange(len(a)), b] = 1, -1
    root = np.sqrt(q[a] * q[b])
    d = np.linalg.lstsq(design * root[:, None], root * (2 * prob[a, b] - 1) / (2 * tau), rcond=None)[0]
    assert_close(closed, normalize(pre + d), SOLVED)


@given(st.data(), sizes, st.floats(0.1, 5))
def test_kl_control_maximises_equation_13(data: st.DataObject, n: int, beta: float) -> None:
    """E[r] - beta KL is beta log sum p_pre exp(r / beta) at Eq. 14, and no perturbation has more."""
    reward, pre = data.draw(arrays(n, -3.0, 3.0)), data.draw(log_densities(n))
    best = targets.kl_control(reward, pre, beta)
    other = normalize(best + data.draw(arrays(n, -1.0, 1.0)))

    def objective(log_pi: Any) -> float:
        return float(np.exp(log_pi) @ (reward - beta * (log_pi - pre)))

    assert_close(objective(best), beta * log_mass(pre + reward / beta), CLOSED_FORM, scale=10 + 10 * beta)
    assert objective(other) <= objective(best) + 1e-12 * (10 + 10 * beta)


LUCE = PBDE.luce()
HALF = np.full((2, 2), 0.5)
BAD: list[tuple[Any, str]] = [
    (lambda: PBDE(0.0, 0.0), "f must be > 0"),
    (lambda: PBDE([1.0, -1.0], 0.0), "f must be > 0"),
    (lambda: PBDE(np.inf, 0.0), "f must be finite"),
    (lambda: PBDE(1.0, [np.nan]), "g must be finite"),
    (lambda: PBDE(np.ones(2), np.ones(3)), "f and g must match"),
    (lambda: PBDE(np.ones((2, 2)), 0.0), r"shape \(n,\)"),
    (lambda: PBDE.dpo(0.0, UNIFORM), "beta must be > 0, got 0.0"),
    (lambda: PBDE.dpo(-1.0, UNIFORM), "beta must be > 0, got -1.0"),
    (lambda: PBDE.geometric(0.0, UNIFORM), "alpha must be > 0"),
    (lambda: PBDE.geometric(float("nan"), UNIFORM), "alpha must be > 0"),
    (lambda: PBDE.length_normalized([1, 0]), "lengths must be > 0"),
    (lambda: PBDE.length_normalized([1, 2], scale=-1), "scale must be > 0"),
    (lambda: LUCE.omega([np.nan, 0.0]), "log_p must be finite"),
    (lambda: LUCE.omega([-np.inf, 0.0]), "log_p must be finite"),
    (lambda: PBDE(np.ones(3), 0.0).omega(np.zeros(2)), "support has 2 points"),
    (lambda: Annotator(np.zeros(3), LUCE), "log_p must be normalised.*measure"),
    (lambda: Annotator(UNIFORM, LUCE, measure=np.ones(3)), r"measure must have shape \(4,\)"),
    (lambda: Annotator(UNIFORM, LUCE, measure=np.zeros(4)), "measure must be > 0"),
    (lambda: Annotator(UNIFORM, PBDE(np.ones(3), 0.0)), "support has 4 points"),
    (lambda: Population([], []), "at least one annotator"),
    (lambda: Population([Annotator(UNIFORM, LUCE)], [0.5]), "weights must sum to 1"),
    (lambda: Population([Annotator(UNIFORM, LUCE)] * 2, [1.5, -0.5]), "weights must be > 0"),
    (lambda: Population([Annotator(UNIFORM, LUCE), Annotator([0.0], LUCE)], [0.5, 0.5]), "share one support"),
    (
        lambda: Annotator(UNIFORM, LUCE).sample([0], [4], np.random.default_rng(0)),
        r"x_b must lie in 0\.\.3, got 4",
    ),
    (lambda: Annotator(UNIFORM, LUCE).sample([0.5], [1], np.random.default_rng(0)), "1-D array of integers"),
    (lambda: win_matrix(HALF, [0.5, 0.6]), "must sum to 1"),
    (lambda: win_matrix(HALF, [1.5, -0.5]), "proposal must be >= 0"),
    (lambda: win_matrix(HALF, np.ones(3) / 3), "proposal must have shape"),
    (lambda: win_matrix(HALF, np.eye(2) / 2), "two different outcomes"),
    (lambda: win_matrix(np.full((2, 2), 1.5), [0.5, 0.5]), r"must lie in \[0, 1\]"),
    (lambda: win_matrix(np.full((2, 2), 0.4), [0.5, 0.5]), "must be 1"),
    (lambda: Comparisons([0], [1], [1.5], 2), r"y must lie in \[0, 1\], got 1.5"),
    (lambda: Comparisons([0], [1], [np.nan], 2), "y must be finite"),
    (lambda: Comparisons([0], [1], [1], 2, weight=[-1]), "weight must be >= 0"),
    (lambda: Comparisons([0, 1], [1, 0], [1, 1], 2, weight=[1e308, 1e308]), "weight must be finite in sum"),
    (lambda: optimum([[0, 1.7e308], [1.7e308, 0]], LUCE), "wins must sum to .* got inf"),
    (lambda: optimum([[0, 1e-310], [1e-310, 0]], LUCE), "wins must sum to at least 1e-290"),
    (lambda: Comparisons([0], [2], [1], 2), r"x_b must lie in 0\.\.1, got 2"),
    (lambda: Comparisons([-1], [1], [1], 2), r"x_a must lie in 0\.\.1, got -1"),
    (lambda: Comparisons([0, 1], [1], [1, 1], 2), "same shape"),
    (lambda: Comparisons([0], [1], [1, 1], 2), r"y must have shape \(1,\)"),
    (lambda: Comparisons([0], [1], [1], 2, labels=["x"]), "labels must name all 2"),
    (lambda: targets.product_of_experts(UNIFORM, UNIFORM, 0), "beta must be > 0"),
    (lambda: targets.geometric_mean(UNIFORM, [0.0], 1), "same shape"),
    (lambda: targets.kl_control([1.0], UNIFORM, 1), r"reward must have shape \(4,\)"),
    (lambda: targets.ipo(HALF, [0.5, 0.5], np.log([0.5, 0.5]), 0), "tau must be > 0"),
    (lambda: targets.ipo(2 * np.array(HALF), [0.5, 0.5], np.log([0.5, 0.5]), 1), r"\[j, i\] must be 1, got 2"),
    (
        lambda: targets.ipo(np.full((3, 3), 0.5), [[0, 1, 0], [0, 0, 0], [0, 0, 0]], np.log(np.full(3, 1 / 3)), 1),
        "2 comp",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(call: Any, message: str) -> None:
    """Name, rule and value, as a ValueError."""
    with pytest.raises(ValueError, match=message):
        call()


def test_json_lines_of_chosen_and_rejected(tmp_path: Path) -> None:
    """Strings or ids, blank lines and other keys; without options; the same as a CSV file with these columns."""
    path, table = tmp_path / "answers.jsonl", tmp_path / "answers.csv"
    path.write_text('{"chosen": "a, one", "rejected": 7, "meta": [1]}\n\n{"chosen": 7, "rejected": "b\\nc"}\n')
    table.write_text('chosen,rejected\n"a, one",7\n7,"b\nc"\n')
    for data in (Comparisons.from_csv(path), Comparisons.from_csv(table)):
        assert data.labels == ("a, one", "7", "b\nc")
        assert_close(data.wins().toarray(), [[0, 1, 0], [0, 0, 1], [0, 0, 0]], 0.0)
    named = tmp_path / "named.ndjson"
    named.write_text('{"l": "x", "r": "z", "pick": "x", "n": 3}\n{"l": "z", "r": "x", "pick": "z", "n": 2}\n')
    data = Comparisons.from_csv(named, a="l", b="r", y="pick", weight="n")
    assert_close(data.wins().toarray(), [[0, 3], [2, 0]], 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"chosen": "a", "rejected": "b"}\n{"chosen": "a"\n', "line 2: not JSON"),
        ('["a", "b"]\n', "line 1: a JSON object expected"),
        (
            '{"chosen": "a", "rejected": "b"}\n{"chosen": null, "rejected": "b"}\n',
            "line 2: 'chosen' must be a string",
        ),
        (
            '{"chosen": "a", "rejected": "b"}\n{"chosen": ["a"], "rejected": "b"}\n',
            "line 2: 'chosen' must be a str",
        ),
        ('{"chosen": "a"}\n', "line 1: column 'rejected' is not there"),
        (
            '{"chosen": "a", "rejected": "b"}\n{"chosen": NaN, "rejected": "b"}\n',
            "line 2: 'chosen' must be a string",
        ),
        ('{"chosen": "a", "rejected": "b", "chosen": "c"}\n', "line 1: not JSON: key 'chosen' is twice there"),
        ("\n", "is empty"),
    ],
)
def test_wrong_json_lines(text: str, message: str, tmp_path: Path) -> None:
    """File, line and key."""
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Comparisons.from_csv(path)


CHOSEN = "chosen,rejected,y\nx,z,1\nz,x,1\nx,z,0\nx,z,0\nx,z,0\n"
WORDS = CHOSEN.replace("y\n", "choice\n").replace(",1", ",A").replace(",0", ",B")


@pytest.mark.parametrize(
    ("text", "asked", "x_over_z"),
    [
        (CHOSEN, {"y": "y"}, [1, 4]),
        (CHOSEN, {"outcomes": ("1", "0", "0.5")}, [1, 4]),
        (CHOSEN, {"a": "chosen", "b": "rejected"}, [1, 4]),
        (CHOSEN, {"y": None}, [4, 1]),
        (WORDS, {}, [4, 1]),
        (WORDS, {"y": "choice", "outcomes": ("A", "B", "T")}, [1, 4]),
    ],
)
def test_an_outcome_beside_chosen_and_rejected(
    text: str, asked: dict[str, Any], x_over_z: list[float], tmp_path: Path
) -> None:
    """Counts where it is asked for, by the name of its column or by its words; where it is not, chosen won."""
    path = tmp_path / "c.csv"
    path.write_text(text)
    wins = Comparisons.from_csv(path, **asked).wins().toarray()
    assert_close([wins[0, 1], wins[1, 0]], x_over_z, 0.0)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "line 1: column 'y' must be asked for beside chosen and rejected; give --y y"),
        ({"a": "a"}, "line 1: column 'a' is not there"),
        ({"y": None, "outcomes": ("1", "0", "0.5")}, "outcomes need a column y"),
    ],
)
def test_an_outcome_that_nobody_chose(asked: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Refused where chosen could mean the opposite of y."""
    path = tmp_path / "c.csv"
    path.write_text(CHOSEN)
    with pytest.raises(ValueError, match=message):
        Comparisons.from_csv(path, **asked)


def test_blank_lines_anywhere(tmp_path: Path) -> None:
    """Before the header, between rows and at the end, empty or of blanks; later lines keep their numbers."""
    path = tmp_path / "blank.csv"
    path.write_text("\n  \na,b,y\n \t \nx,z,1\n\nz,x,1\n   \n")
    assert_close(Comparisons.from_csv(path).wins().toarray(), [[0, 1], [1, 0]], 0.0)
    with pytest.raises(ValueError, match="line 3: column 'w' is not there"):
        Comparisons.from_csv(path, weight="w")
    path.write_text(path.read_text() + "z,x\n")
    with pytest.raises(ValueError, match="line 9: 3 columns expected, got 2"):
        Comparisons.from_csv(path)


@pytest.mark.parametrize(("ties", "kept", "left_out"), [("half", 1.0, 0.0), ("drop", 0.0, 1.0)])
def test_an_item_tied_with_itself_is_no_tie(ties: Any, kept: float, left_out: float, tmp_path: Path) -> None:
    """It is a comparison of an item with itself, however ties are taken."""
    path = tmp_path / "self.csv"
    path.write_text("a,b,y\nx,x,0.5\nx,z,1\nz,x,1\nx,z,0.5\n")
    data = Comparisons.from_csv(path, ties=ties)
    assert (data.dropped, data.ties, data.ties_left_out) == (1, kept, left_out)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("x,1\nz,2\nx,9\n", "line 4: length of 'x' must be 1 as before, got 9"),
        ("x,1\nz,0\n", "line 3: length must be > 0, got 0"),
        ("x,1\nz,1_0\n", "line 3: length must be a number > 0, got '1_0'"),
        ("x,1\n", "no length for 1 of 2 items, the first is 'z'"),
    ],
)
def test_wrong_lengths(rows: str, message: str, tmp_path: Path) -> None:
    """File, line and rule; the same length twice is no contradiction."""
    path = tmp_path / "lengths.csv"
    path.write_text(f"item,length\n{rows}")
    with pytest.raises(ValueError, match=f"lengths.csv.*{message}"):
        read_lengths(path, ("x", "z"))
    path.write_text("item,length\nx,1\nz,2\nx,1.0\n")
    assert_close(read_lengths(path, ("x", "z")), [1, 2], 0.0)


def test_ids_and_cells_name_the_items_that_they_seem_to(tmp_path: Path) -> None:
    """7 and 7.0 are one id, NaN in another key is no matter, blanks around cells do not count."""
    path, table = tmp_path / "ids.jsonl", tmp_path / "blanks.csv"
    path.write_text('{"chosen": 7, "rejected": 2.5, "score": NaN}\n{"chosen": 2.5, "rejected": 7.0}\n')
    assert Comparisons.from_csv(path).labels == ("7", "2.5")
    table.write_text("a, b, y, w\nx, z, z, 2\nz ,x,x, 1\n")
    data = Comparisons.from_csv(table, weight="w")
    assert data.labels == ("x", "z")
    assert_close(data.wins().toarray(), [[0, 1], [2, 0]], 0.0)
