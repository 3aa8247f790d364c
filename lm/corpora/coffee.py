"""The default corpus: a grammar of little English sentences about people and their coffee.

A clause is a subject, a verb and what the verb asks for; behind it may stand how, where and when. A sentence may
stop behind any of these; conjunctions add clauses, and the more clauses there are, the likelier it stops.
"""

from __future__ import annotations

from dataclasses import replace

from lm.corpora.grammar import Choice, Grammar

FLATNESS = 4.0  # the word of rank r in its class has weight 1 / (r + FLATNESS): Zipf's law, flattened

WORDS = {
    "determiner": "the this our my that her his your every",
    "pronoun": "she he someone everyone nobody",
    "name": "anna omar lena marco rosa ivan mei otto ida",
    "person adjective": "tired young friendly old sleepy cheerful busy quiet eager curious patient honourable",
    "person": "barista guest farmer waiter student baker painter artist teacher neighbour nurse uncle writer",
    "drink adjective": "hot fresh strong iced sweet bitter creamy enormous large double smoky aromatic",
    "drink": "coffee latte espresso cappuccino tea mocha americano cortado cocoa affogato",
    "vessel": "cup mug pot glass flask ounce urn",
    "liquid": "coffee espresso tea milk cocoa water cider cream",
    "bean adjective": "dark roasted fresh organic fragrant expensive",
    "bean": "beans sugar grounds cinnamon cardamom vanilla",
    "thing adjective": "clean broken shiny wooden empty copper heavy red ancient little electric",
    "thing": "kettle grinder machine spoon filter tray table apron counter oven window cake umbrella menu",
    "place adjective": "small sunny crowded warm empty noisy narrow elegant open",
    "place": "cafe kitchen garden market station library office street harbour corner alley bakery attic",
    "drinks": "drinks sips orders pours brews tastes warms serves stirs praises",
    "grinds": "grinds weighs roasts smells buys measures sorts",
    "cleans": "cleans fills carries repairs drops polishes moves admires paints",
    "greets": "greets helps thanks calls watches teaches follows",
    "smiles": "smiles waits laughs sings listens sleeps hums yawns rests talks",
    "often": "often always usually never sometimes rarely",
    "slowly": "slowly quietly carefully happily gently quickly patiently proudly softly calmly",
    "today": "today again tonight now daily outside twice",
    "dawn": "dawn noon night sunrise midnight",
    "place preposition": "in near behind beside",
    "subordinator": "because while when after before until although since",
    "coordinator": "and but",
    "of": "of",
    "with": "with",
    "at": "at",
    "who": "who",
    "comma": ",",
    "then": "then",
}

STOP = (0.011, 0.11, 0.2, 0.3, 0.55, 0.7, 0.8, 0.9)  # by the clauses so far; fitted to the length law wanted of it

CLAUSE_ENDS = frozenset({"drunk", "clause", "how", "where", "when"})


def coffee_grammar() -> Grammar:
    """The default grammar."""
    classes: dict[str, dict[str, float]] = {"a": {"a": 1.0}, "an": {"an": 1.0}}
    for name, words in WORDS.items():
        weights = {word: 1 / (rank + FLATNESS) for rank, word in enumerate(words.split(), start=1)}
        classes |= _by_article(name, weights) if name in NOMINAL else {name: weights}
    return Grammar(classes, _rules(), STOP, CLAUSE_ENDS, "subject")


NOMINAL = frozenset(
    name + kind
    for name in ("person", "drink", "vessel", "thing", "place")
    for kind in ("", " adjective")
    if name + kind in WORDS
)


def _by_article(name: str, weights: dict[str, float]) -> dict[str, dict[str, float]]:
    """A class as two: the words that go with "a", and those that go with "an"."""
    vowel = {word: weight for word, weight in weights.items() if word[0] in "aeiou"}
    return {f"{name} (a)": {w: v for w, v in weights.items() if w not in vowel}, f"{name} (an)": vowel}


def _either(name: str, weight: float, to: str, articles: str = "a an") -> list[Choice]:
    """A noun or adjective behind the named articles; words with "a" are three times the others."""
    share = {"a": 0.75, "an": 0.25}
    total = sum(share[article] for article in articles.split())
    return [Choice(f"{name} ({x})", weight * share[x] / total, to) for x in articles.split()]


def _noun_phrase(name: str, noun: str, then: str, vessel: bool = False) -> dict[str, list[Choice]]:
    """Positions name, name.the, name.a, name.an and name.noun: determiner, adjective or none, noun, `then`."""

    def nominal(articles: str) -> list[Choice]:
        choices = _either(f"{noun} adjective", 0.45, f"{name}.noun", articles) + _either(
            noun, 0.55, then, articles
        )
        return choices + (_either("vessel", 0.35, f"{name}.of", articles) if vessel else [])

    return {
        name: [
            Choice("determiner", 0.6, f"{name}.the"),
            Choice("a", 0.3, f"{name}.a"),
            Choice("an", 0.1, f"{name}.an"),
        ],
        f"{name}.the": nominal("a an"),
        f"{name}.a": nominal("a"),
        f"{name}.an": nominal("an"),
        f"{name}.noun": _either(noun, 1.0, then),
    }


def _mass_phrase(name: str, adjectives: tuple[str, ...], noun: str, then: str) -> dict[str, list[Choice]]:
    """Positions name and name.noun: an adjective or none, a noun without article, `then`."""
    first = [Choice(adjective, 0.45 / len(adjectives), f"{name}.noun") for adjective in adjectives]
    return {name: [*first, Choice(noun, 0.55, then)], f"{name}.noun": [Choice(noun, 1.0, then)]}


def _scaled(choices: list[Choice], share: float) -> list[Choice]:
    """The same choices with weights that sum to share."""
    total = sum(choice.weight for choice in choices)
    return [replace(choice, weight=share * choice.weight / total) for choice in choices]


def _rules() -> dict[str, list[Choice]]:
    subject = _noun_phrase("subject", "person", "person")
    subject["subject"] = _scaled(subject["subject"], 0.7)
    subject["subject"] += [Choice("pronoun", 0.15, "verb"), Choice("name", 0.15, "verb")]
    other = _noun_phrase("other", "person", "clause")
    other["other"] = [*_scaled(other["other"], 0.75), Choice("name", 0.25, "clause")]
    act = [
        Choice("drinks", 0.35, "drink"),
        Choice("grinds", 0.15, "bean"),
        Choice("cleans", 0.2, "thing"),
        Choice("greets", 0.12, "other"),
    ]
    deed = [*act, Choice("smiles", 0.18, "clause")]
    verb = [*_scaled(deed, 0.85), Choice("often", 0.15, "deed")]
    return {
        **subject,
        "person": [*_scaled(verb, 0.8), Choice("who", 0.1, "who"), Choice("with", 0.1, "held")],
        "who": [Choice("smiles", 0.7, "act"), Choice("often", 0.3, "who.often")],
        "who.often": [Choice("smiles", 1.0, "act")],
        "act": act,
        **_noun_phrase("held", "thing", "verb"),
        "verb": verb,
        "deed": deed,
        **_noun_phrase("drink", "drink", "drunk", vessel=True),
        "drink.of": [Choice("of", 1.0, "liquid")],
        **_mass_phrase("liquid", ("drink adjective (a)", "drink adjective (an)"), "liquid", "drunk"),
        **_mass_phrase("bean", ("bean adjective",), "bean", "clause"),
        **_noun_phrase("thing", "thing", "clause"),
        **other,
        **_clause_ends(subject["subject"], deed),
    }


def _clause_ends(subject: list[Choice], deed: list[Choice]) -> dict[str, list[Choice]]:
    """What may follow a clause: with what, how, where, when, and the next clause."""
    with_what = [Choice("with", 0.2, "flavour")]
    how = [Choice("slowly", 0.15, "how")]
    where = [Choice("place preposition", 0.2, "place")]
    when = [Choice("today", 0.1, "when"), Choice("at", 0.1, "hour")]
    joined = [
        Choice("subordinator", 0.25, "subject", clause=True),
        Choice("coordinator", 0.15, "joined", clause=True),
        Choice("comma", 0.15, "comma"),
    ]
    return {
        "drunk": with_what + how + where + when + joined,
        **_mass_phrase("flavour", ("bean adjective",), "bean", "clause"),
        "clause": how + where + when + joined,
        "how": where + when + joined,
        **_noun_phrase("place", "place", "where"),
        "where": when + joined,
        "hour": [Choice("dawn", 1.0, "when")],
        "when": joined,
        "comma": [Choice("coordinator", 1.0, "joined", clause=True)],
        "joined": [*_scaled(subject, 0.7), *_scaled(deed, 0.2), Choice("then", 0.1, "deed")],
    }
