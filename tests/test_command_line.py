"""`python -m reference`: verify's rows, fit's tables and JSON, and files that are wrong in every way."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import PBDE, Comparisons
from reference.__main__ import main
from reference.claims.verify import CLAIMS, Claim, verify
from reference.command_line.report import json_line, number
from reference.inference.fit import fit
from reference.pbde import normalize
from reference.univariate import Toy
from tests.checks import assert_close

CITATIONS = str(Path(__file__).parents[1] / "reference" / "data" / "citations.csv")
CONVARG = Path(__file__).parents[2] / "shared" / "data" / "convarg" / "judgments.csv"

UNREAD = "a,b,y,label,Margin,topic\nnan,z,1,0,2,t\nz,nan,1,0,1,t\n"
COLUMNS = ("a", "b", "y", "annotator", "weight", "by")  # options that name a column


def tempered(claim: Claim) -> Callable[..., np.ndarray]:
    """The claim's own formula with an exponent off by a hundredth, normalised again."""
    formula = inspect.signature(claim.check).parameters["formula"].default or (lambda x: x)
    return lambda *given: np.asarray(normalize(1.01 * np.asarray(formula(*given))))


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim.name for claim in CLAIMS])
def test_every_claim_holds_and_a_wrong_formula_fails(claim: Claim) -> None:
    """The claim's own formula passes; with an exponent off by a hundredth its row fails."""
    assert verify([claim], 12, 8, 1)[0].holds
    assert not verify([claim], 12, 8, 1, formula=tempered(claim))[0].holds


@pytest.mark.parametrize("name", ["Theorem 2", "Eq. 14", "Eq. 17", "Eq. 19", "general", "IPO"])
def test_a_missing_normaliser_fails(name: str) -> None:
    """The right formula plus a tenth: no longer normalised."""
    claim = next(known for known in CLAIMS if known.name == name)
    right = claim.check.__defaults__[0]  # type: ignore[index]
    assert not verify([claim], 12, 8, 1, formula=lambda *given: right(*given) + 0.1)[0].holds


def test_verify_prints_a_row_a_claim(capsys: pytest.CaptureFixture[str]) -> None:
    """A table of at most 100 columns, its last line the count; --json the same."""
    assert main(["verify", "--trials", "2", "--n", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1].startswith(f"{len(CLAIMS)} of {len(CLAIMS)} hold (n = 2..8, 2 trials, seed 0")
    assert main(["verify", "--trials", "2", "--n", "8", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["claim"] for row in rows] == [claim.name for claim in CLAIMS]
    assert all(row["holds"] and row["worst"] <= row["allowed"] for row in rows)


def test_fit_prints_the_citations(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Densities sum to 1 in JSON and CSV alike, and the table names the most preferred journal first."""
    out = tmp_path / "items.csv"
    assert main(["fit", CITATIONS, "--weight", "weight", "--json", "--csv", str(out)]) == 0
    graph = json.loads(capsys.readouterr().out)
    assert {"group", "log_likelihood", "saturated", "comparisons", "verdict", "items"} <= set(graph)
    assert graph["comparisons"] == 3727
    assert set(graph["items"][0]) == {"item", "log_p", "omega", "se_log_p", "se_omega", "comparisons"}
    assert_close(sum(np.exp(item["log_p"]) for item in graph["items"]), 1.0, 1e-12)
    assert out.read_text().splitlines()[0] == "group,item,log_p,omega,se_log_p,se_omega,comparisons"
    assert len(out.read_text().splitlines()) == 5
    assert main(["fit", CITATIONS, "--weight", "weight"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "  y = 1: a is preferred; a won 100.0 %, b 0.0 %; the other way round: --a b --b a"
    assert lines[4].startswith("JRSS-B")
    assert max(map(len, lines)) <= 100


def test_length_normalised_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """--pbde length: omega = log p / |x| up to a constant."""
    lengths = tmp_path / "items.csv"
    lengths.write_text("item,length\nBiometrika,1\nJASA,2\nJRSS-B,3\nComm. Statist.,4\n")
    assert (
        main(["fit", CITATIONS, "--weight", "weight", "--pbde", "length", "--lengths", str(lengths), "--json"])
        == 0
    )
    items = json.loads(capsys.readouterr().out)["items"]
    length = {"Biometrika": 1, "JASA": 2, "JRSS-B": 3, "Comm. Statist.": 4}
    constant = [item["log_p"] / length[item["item"]] - item["omega"] for item in items]
    assert_close(np.ptp(constant), 0.0, 1e-12)


def test_words_groups_ties_and_windows_files(tmp_path: Path) -> None:
    """A byte-order mark, Windows line ends, quotes, blank lines, outcome words, groups and dropped ties."""
    path = tmp_path / "judged.csv"
    text = '\ufefftopic,l,r,who,pick\r\n1,"a, one",b,u,left\r\n\r\n1,b,"a, one",v,left\r\n'
    text += "1,b,c,u,none\r\n2,x,y,u,right\r\n"
    path.write_bytes(text.encode())
    words = ("left", "right", "none")
    data = Comparisons.from_csv(path, a="l", b="r", y="pick", annotator="who", outcomes=words)
    assert data.labels == ("a, one", "b", "c", "x", "y")
    assert np.asarray(data.y).tolist() == [1, 1, 0.5, 0]
    assert np.asarray(data.annotator).tolist() == ["u", "v", "u", "u"]
    dropped = Comparisons.from_csv(path, a="l", b="r", y="pick", outcomes=words, ties="drop")
    assert (len(dropped), dropped.ties_left_out) == (3, 1.0)
    arguments = ["--a", "l", "--b", "r", "--y", "pick", "--outcomes", "left,right,none", "--by", "topic", "--json"]
    assert main(["fit", str(path), *arguments]) == 1


def test_y_may_be_the_winners_name(tmp_path: Path) -> None:
    """The name of a or b in every row, even where names look like numbers."""
    path = tmp_path / "games.csv"
    path.write_text("a,b,y\n1,5,5\n5,1,1\n1,5,1\n")
    assert np.asarray(Comparisons.from_csv(path).y).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("rows", "asked"),
    [
        ("y x,z,1 z,x,1 x,z,0 x,z,0 x,z,0", ["--y", "y"]),
        ("y x,z,1 z,x,1 x,z,0 x,z,0 x,z,0", ["--outcomes", "1,0,0.5"]),
        ("choice x,z,A z,x,A x,z,B x,z,B x,z,B", ["--y", "choice", "--outcomes", "A,B,T"]),
    ],
)
def test_an_outcome_asked_for_beside_chosen_and_rejected(
    rows: str, asked: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It counts, even where it is asked for by the name that it has by default."""
    path = tmp_path / "c.csv"
    path.write_text("\n".join(f"chosen,rejected,{rows}".split()) + "\n")
    assert main(["fit", str(path), *asked, "--json"]) == 0
    x, z = json.loads(capsys.readouterr().out)["items"]
    assert_close(np.exp([x["log_p"], z["log_p"]]), [0.2, 0.8], 1e-12)


def test_an_undetermined_graph_says_what_is_determined(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Groups, who always won, densities within; exit status 1."""
    path = tmp_path / "graph.csv"
    path.write_text("a,b,y\nx,y,1\ny,x,1\ny,z,1\nz,w,1\nw,z,1\n")
    assert main(["fit", str(path)]) == 1
    out = capsys.readouterr().out
    assert "group 1: x, y; won every comparison with group 2" in out
    assert "group 2: z, w" in out
    assert main(["fit", str(path), "--json"]) == 1
    graph = json.loads(capsys.readouterr().out)
    assert graph["components"] == [["x", "y"], ["z", "w"]]


def test_a_part_that_cannot_be_fitted_stops_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Its fault is a line below its group; later graphs are printed, and --csv is written."""
    path, out = tmp_path / "g.csv", tmp_path / "items.csv"
    rows = "A,x,z,1,1 A,z,x,1,1 E,x,z,1,1e-300 E,z,x,1,1e300 E,p,x,1,1 Z,x,z,1,1 Z,z,x,1,1"
    path.write_text("\n".join(["g,a,b,y,w", *rows.split()]) + "\n")
    arguments = ["fit", str(path), "--by", "g", "--weight", "w", "--csv", str(out)]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    graph = shown.out[shown.out.index("E: 3 items") :]
    assert shown.err == ""
    assert "  group 2: x, z\n    not fitted: the curvature at an item underflows\n" in graph
    assert "Z: 2 items" in graph
    assert [line[:4] for line in out.read_text().splitlines()[1:]] == ["A,x,", "A,z,", "Z,x,", "Z,z,"]
    assert main([*arguments, "--json"]) == 1
    record = json.loads(capsys.readouterr().out.splitlines()[1])
    assert record["within"] == [[], []]
    assert record["not_fitted"] == [None, "the curvature at an item underflows"]


def test_a_prior_is_not_called_ties(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Where only the prior made the fit finite, no line speaks of ties that there are none of."""
    path = tmp_path / "n.csv"
    path.write_text("a,b,y\nx,z,1\nz,x,1\nz,q,1\nq,z,1\nq,x,1\nx,q,1\nx,t,1\n")
    assert main(["fit", str(path), "--prior", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "the decisive comparisons alone have no finite fit" in out
    assert "without the ties" not in out


def test_huge_standard_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Columns stay apart, and no density is called known within a factor that means nothing."""
    path = tmp_path / "f.csv"
    path.write_text("a,b,y\nx,z,1\n")
    for prior in ("1e-6", "1e-12"):
        assert main(["fit", str(path), "--prior", prior]) == 0
        table = capsys.readouterr().out.splitlines()[4:6]
        # an item, its density, the interval in two words, five numbers
        assert [len(row.split()) for row in table] == [9, 9]
        assert main(["diagnose", str(path), "--prior", prior]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "known within no useful factor (x) to no useful factor (z)" in said  # [0, 1] both


@given(st.floats(-1e300, 1e300) | st.integers(-(10**9), 10**9).map(float), st.sampled_from([0, 3]))
def test_numbers_of_a_column(value: float, decimals: int) -> None:
    """As wide as the column with a blank in front, and right to one digit."""
    for shown, width in ((value, 9), (abs(value), 7)):
        text = number(shown, decimals, width)
        assert len(text) == width
        assert text[0] == " "
        assert abs(float(text) - shown) <= 0.5 * abs(shown) + 0.5 * 10.0**-decimals


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", [], "is empty"),
        (b"a,b,y\n", [], "no comparisons"),
        (b"a,b\nx,z\n", [], "line 1: column 'y' is not there; the columns are a, b"),
        (b"a,a,b,y\nx,x,z,1\n", [], "line 1: column 'a' is twice there"),
        (b"a,b,y\nx,z,1\nx,z\n", [], "line 3: 3 columns expected, got 2"),
        (b"a,b,y\nx,z,1\nx,z,1.2\n", [], "line 3: y must be a number in [0, 1]"),
        (b"a,b,y\nx,z,1\nx,z,nan\n", [], "line 3: y must be a number in [0, 1]"),
        (b"a,b,y\nx,z,maybe\n", [], "line 2: y must be a number in [0, 1], or the winner's name"),
        (
            b"a,b,y\nx,z,x\nx,z,tie\n",
            [],
            "line 3: y must be a number in [0, 1], or the winner's name in every row",
        ),
        (b"a,b,y,k\nx,z,1,1e308\nz,x,1,1e308\n", ["--weight", "k"], "weight must be finite in sum"),
        (b"a,b,y,k\nx,z,1,1e-320\nz,x,1,1e-320\n", ["--weight", "k"], "wins must sum to at least 1e-290"),
        (b"a,b,y\nx,,1\n", [], "line 2: b is empty"),
        (b"a,b,y\nx, ,1\n", [], "line 2: b is empty"),
        (b"a,b,y\nx,z,1\nx,\xff,1\n", [], "line 3: not UTF-8"),
        pytest.param(
            b"a,b,y\n" + b"x,z,1\nz,x,1\n" * 2000 + b"caf\xe9,x,1\n", [], "line 4002: not UTF-8", id="far down"
        ),
        (b"a,b,y\n0,1,1\n1,0,0\n", [], "y must be numbers or winners' names, got 0 and 1, which may be either"),
        (b"a,b,y\n1,2,1\n2,1,1\n1,3,1\n3,1,1\n", [], "got 1, which may be either; give --outcomes 1,0,0.5"),
        (b"a,b,y\nx,z,0_1\n", [], "line 2: y must be a number in [0, 1], or the winner's name in every row"),
        (b"a,b,y,k\nx,z,1,1_0\n", ["--weight", "k"], "line 2: k must be a number >= 0, got '1_0'"),
        (b"chosen,rejected,y\nx,z,0\n", [], "line 1: column 'y' must be asked for"),
        *((b"a,b,y\nx,z,1\n", [f"--{name}", ""], "line 1: column '' is not there") for name in COLUMNS),
        (b"a,b,y\nx,z,1\nz,x,1\n", ["--csv", ""], "No such file"),
        (b"a,b,y\nx,z,1\nz,x,1\n", ["--pbde", "length", "--lengths", ""], "No such file"),
        (b"a,b,y\nx,z,w\n", ["--outcomes", "l,r,t"], "line 2: y must be one of l, r, t, got 'w'"),
        (b"a,b,y\nx,z,1\n", ["--outcomes", "l,r"], "outcomes must be three different words"),
        (b"a,b,y,k\nx,z,1,-2\n", ["--weight", "k"], "line 2: k must be a number >= 0, got '-2'"),
        (b"a,b,y\nx,x,1\n", [], "at least two items"),
        (b"a,b,y\nx,z,1\n", ["--pbde", "length"], "go together"),
        (b"a,b,y\nx,z,0.5\nz,w,0.5\n", ["--ties", "drop"], "besides the ties that are left out"),
    ],
)
def test_wrong_files(
    content: bytes, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr that names file, line and column; exit status 2."""
    path = tmp_path / "wrong.csv"
    path.write_bytes(content)
    assert main(["fit", str(path), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_file_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Not a traceback."""
    assert main(["fit", str(tmp_path / "nowhere.csv")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_the_output_never_replaces_the_input(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """--csv FILE is refused, lengths too, and a folder that cannot take the output: before anything is fitted."""
    path, lengths = tmp_path / "games.csv", tmp_path / "lengths.csv"
    path.write_text("a,b,y\nx,z,1\nz,x,1\n")
    lengths.write_text("item,length\nx,1\nz,2\n")
    given = ["fit", str(path), "--pbde", "length", "--lengths", str(lengths)]
    refused = "--csv must be another file"
    for output, message in ((path, refused), (lengths, refused), (tmp_path, "Is a directory")):
        assert main([*given, "--csv", str(output)]) == 2
        shown = capsys.readouterr()
        assert message in shown.err
        assert "omega" not in shown.out
    assert path.read_text() == "a,b,y\nx,z,1\nz,x,1\n"
    assert lengths.read_text() == "item,length\nx,1\nz,2\n"


@pytest.mark.parametrize("program", ["fit", "diagnose"])
def test_a_directory_is_one_line(program: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """In the place of a file."""
    assert main([program, str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: Is a directory\n"


def test_convarg(capsys: pytest.CaptureFixture[str]) -> None:
    """84,445 judgments on 32 topics; skipped where the data set is absent."""
    if not CONVARG.exists():
        pytest.skip("the convarg data set is not beside the repository")
    columns = ["--a", "arg1", "--b", "arg2", "--y", "choice", "--outcomes", "a1,a2,equal", "--by", "topic"]
    assert main(["fit", str(CONVARG), *columns, "--json"]) == 0
    graphs = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(graphs) == 32
    assert sum(graph["comparisons"] for graph in graphs) == 84_445


def test_the_toy_is_the_papers() -> None:
    """Eq. 10 on the grid: total mass 1, and the uniform proposal is the trapezoid's."""
    toy = Toy(401)
    assert_close(toy.measure.sum(), 20.0, 1e-12)
    assert_close(np.exp(np.asarray(toy.annotator.log_p)) @ toy.measure, 1.0, 1e-12)
    assert_close(toy.uniform_proposal, toy.measure / 20, 1e-12)


@given(st.recursive(st.floats() | st.none() | st.text(), lambda inner: st.lists(inner) | st.tuples(inner, inner)))
def test_json_is_strict(values: object) -> None:
    """Numbers that are not finite become null, however deep; nothing else changes."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    found = json.loads(json_line({"values": values}), parse_constant=refuse)
    assert found == json.loads(json.dumps({"values": values}), parse_constant=lambda _: None)


def test_no_program_prints_another_json() -> None:
    """Every program's --json goes through `json_line`: json.dumps is called for what only programs read."""
    root = Path(__file__).parents[1]
    calls = {
        str(path.relative_to(root))
        for room in ("reference", "figures", "lm", "bench")
        for path in (root / room).rglob("*.py")
        if "json.dumps(" in path.read_text(encoding="utf-8")
    }
    assert calls == {"reference/command_line/report.py", "lm/corpora/token_store.py"}


def test_a_number_that_is_not_finite_is_null(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the line of `fit --json`, wherever it stands."""
    fitted = fit(Comparisons.from_csv(CITATIONS, weight="weight"), PBDE.luce())
    broken = replace(fitted, saturated=float("nan"), log_likelihood=-np.inf, log_nu=(float("nan"), 1.0))
    monkeypatch.setattr("reference.__main__.fit_with", lambda *_: broken)
    assert main(["fit", CITATIONS, "--weight", "weight", "--json"]) == 0
    record = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [record["saturated"], record["log_likelihood"], record["log_nu"]] == [None, None, [None, 1.0]]


def test_words_that_begin_with_a_dash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Are words where an option expects some: outcomes, a column, the items of --predict."""
    path = tmp_path / "games.csv"
    path.write_text("-p,b,y\n-x,z,1\n-x,z,-1\nz,-x,1\nz,-x,-1\n-x,z,0\n-x,z,1\n")
    given_words = ["--a", "-p", "--outcomes", "-1,1,0", "--predict", "-x", "z", "--json"]
    assert main(["fit", str(path), *given_words]) == 0
    assert json.loads(capsys.readouterr().out)["predict"]["probability"] == pytest.approx(5 / 12, abs=1e-9)


@pytest.mark.parametrize("program", ["fit", "diagnose"])
@pytest.mark.parametrize(
    ("text", "asked", "said"),
    [
        (
            "p,q,c\nx,z,0\nz,x,0\nx,z,1\nx,z,0.5\n",
            "--a p --b q --y c",
            "c = 1: p is preferred; p won 25.0 %, q 50.0 %, ties 25.0 %; the other way round: --a q --b p",
        ),
        ("a,b,y\nx,z,x\nz,x,x\nx,z,z\n", "", "y names the winner; a won 33.3 %, b 66.7 %"),
        (
            "a,b,y\nx,z,l\nz,x,l\nx,z,r\n",
            "--outcomes l,r,t",
            "y = l: a is preferred, r: b, t: a tie; a won 66.7 %, b 33.3 %",
        ),
        (
            "chosen,rejected\nx,z\nz,x\n",
            "",
            "chosen is preferred in every row; chosen won 100.0 %, rejected 0.0 %",
        ),
        (UNREAD, "", "column 'label' (--y label reads it)"),
        (UNREAD, "", "column 'Margin' (every row counts the same)"),
        ("a,b,y\nNaN,z,1\nz,NaN,1\n", "", "an item is named 'NaN'"),
    ],
)
def test_how_it_was_read(
    program: str, text: str, asked: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The heading says how outcomes were read, how often the first side won, and what may be meant otherwise."""
    path = tmp_path / "f.csv"
    path.write_text(text)
    assert main([program, str(path), *asked.split()]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert said in shown
    assert "topic" not in shown


def test_a_graph_of_many_parts_is_not_many_paragraphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The largest part in full, one line for the other 63, and a row of --csv for every density."""
    path, out = tmp_path / "season.csv", tmp_path / "out.csv"
    ring = [f"p{k},p{(k + 1) % 12},1" for k in range(12)]
    pairs = [f"q{k},r{k},{y}" for k in range(3) for y in (0, 1)]
    path.write_text("\n".join(["a,b,y", *ring, *pairs, *(f"p0,s{k},1" for k in range(60))]) + "\n")
    assert main(["fit", str(path), "--csv", str(out)]) == 1
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 30
    assert "and 63 smaller groups, 60 of a single item: --csv has their densities" in shown
    header, *rows = (line.split(",") for line in out.read_text().splitlines())
    assert header[-1] == "part"
    assert len(rows) == 12 + 6
    density: dict[str, float] = {}
    for row in rows:
        density[row[-1]] = density.get(row[-1], 0) + np.exp(float(row[2]))
    assert_close(list(density.values()), np.ones(4), 1e-10)
    assert main(["fit", str(path), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["components"]) == 64


def test_parts_that_only_the_prior_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Are named beside the table and beside a prediction across them; a linked graph is not."""
    path = tmp_path / "apart.csv"
    path.write_text("a,b,y,w\nM1,M2,1,7\nM1,M2,0,3\nC,D,1,4\nD,C,1,2\nD,E,1,3\nE,D,1,3\n")
    given_prior = ["fit", str(path), "--weight", "w", "--prior", "0.5", "--predict"]
    for pair, alone in ((["M1", "C"], True), (["M1", "M2"], False)):
        assert main([*given_prior, *pair]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "2 parts that no comparison links: C, D, E | M1, M2." in said
        assert ("by the prior alone" in said) == alone
    assert main([*given_prior, "M1", "C", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unlinked"] == [["C", "D", "E"], ["M1", "M2"]]
    assert main(["fit", CITATIONS, "--weight", "weight", "--prior", "0.5"]) == 0
    assert "no comparison links" not in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_rows_that_are_missing_from_the_csv_are_accounted_for(
    more: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Ties as half wins give the rows of the parts; Davidson's model without a finite fit a line on stderr, as any
    graph that is not fitted; nothing is said of graphs that have rows, and nothing without --csv."""
    path, out = tmp_path / "f.csv", tmp_path / "items.csv"
    rows = ["g,x,y,1", "g,y,z,1", "g,z,y,1", "g,y,z,0.5", "h,x,y,1", "h,y,x,1", "h,x,y,0.5", "i,x,x,1"]
    path.write_text("\n".join(["g,a,b,y", *rows]) + "\n")
    arguments = ["fit", str(path), "--by", "g", *more]
    groups = {}
    for ties in ("half", "davidson"):
        assert main([*arguments, "--ties", ties, "--csv", str(out)]) == 1
        said = capsys.readouterr().err.splitlines()
        groups[ties] = {line.split(",")[0] for line in out.read_text().splitlines()[1:]}
        assert [line.split(": ")[1] for line in said] == [
            f"no rows of {group}" for group in "ghi" if group not in groups[ties]
        ]
    assert groups == {"half": {"g", "h"}, "davidson": {"h"}}
    assert said[0].startswith(f"# {out}: no rows of g: Davidson's model has no finite fit")
    assert main([*arguments, "--ties", "davidson"]) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ties", ["half", "davidson"])
def test_the_certificate_says_what_it_is(ties: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Two items, 7 : 3 and 4 ties: omega and log nu in closed form, right to what is printed."""
    path = tmp_path / "f.csv"
    path.write_text("a,b,y,w\nx,z,1,7\nx,z,0,3\nx,z,0.5,4\n")
    assert main(["fit", str(path), "--weight", "w", "--ties", ties, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    margin = np.log(9 / 5) if ties == "half" else np.log(7 / 3)
    errors = [abs(record["items"][0]["omega"] - margin / 2)]
    if ties == "davidson":
        errors.append(abs(record["log_nu"][0] - np.log(4 / np.sqrt(21))))
    assert max(errors) <= record["newton_step"] < 1e-9
    assert main(["fit", str(path), "--weight", "w", "--ties", ties]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("certificate"))
    step = f"{record['newton_step']:.0e} nats"
    assert line == f"certificate: omega is right to {step}, the last Newton step plus a bound of rounding"
