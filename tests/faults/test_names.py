"""Whatever a record says is shown on the page, and does nothing there.

The page is read back by a parser of CommonMark with tables: with hostile names it has the same
elements, one by one, as with harmless ones, and what it shows is the names.
"""

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from leaderboard_records import keys, language_model, record
from markdown_it import MarkdownIt
from markdown_it.token import Token
from scale import count, told

from collapse_bench.leaderboard.markdown import clean, escape, markdown
from collapse_bench.leaderboard.page import render
from collapse_bench.leaderboard.section import sections_of
from collapse_bench.metrics import key_of

FRAGMENTS = (
    "|", "\\", "\\|", "\\\\|", "||", "`", "``", "```", "`a`", "<", ">", "<b>", "</td>", "<!--",
    "-->", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<https://x.y>", "<a@b.c>",
    "<?", "]]>", "[a](b)", "![a](b)", "[a](javascript:alert(1))", "[a]: b", "[a][b]", "[^1]", "[ ]",
    "[x]", "](", ")", "*", "**", "***a***", "_", "__a__", "~", "~~a~~", "$", "$$x$$", "#", "# a",
    "=", "===", "-", "---", "- a", "+ a", "* a", "1. a", "2) a", "> a", "    a", "\ta", "&", "&lt;",
    "&#60;", "&amp;lt;", "&colon;", "http://a.b", "https://a.b", "www.a.b", "a@b.c", "mailto:a@b",
    "javascript:", "@someone", "#12", "!", "\n", "\r\n", "\r", "\n\n", "\x0b", "\x0c", "\x85",
    "\u2028", "\u2029", "\0", "\x1b[31m", "\x7f", "\t", "\u202e", "\u2066", "\u200b", "\u200f",
    "\ufeff", "\ud800", "\U000e0041", "\u00a0", "\u3000", "|---|", "| a | b |", "|:-:|", "a" * 300,
    "\u0301", "\U0001f4a9", "\ufdfd", ":smile:", ":", "'", '"', "{", "}", "%", "{{x}}", "{% x %}",
    "${x}", "word", "a b", "a_b", "a*b", "1", "0", "None", "nan", "", " ", "  ",
)  # fmt: skip
"""Of what means something to markdown, to a page made of it, or to a terminal."""

hostile = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=6)), max_size=5).map(
    "".join
)
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
NAMES = 24
"""Hostile strings of a page."""


def shape(page: str) -> list[tuple[str, str, str]]:
    """Every element of a page in its order, with what it links to; texts are left out."""
    return [
        (token.type, token.tag, str(token.attrGet("href") or token.attrGet("src") or ""))
        for token in tokens(page)
        if token.type not in ("text", "text_special", "inline")
    ]


def tokens(page: str) -> list[Token]:
    """The blocks of a page and what is in them, in its order."""
    return [each for block in PARSER.parse(page) for each in (block, *(block.children or ()))]


def texts(page: str) -> list[str]:
    """What each heading, paragraph and cell of a page shows."""
    return [
        "".join(each.content for each in block.children or () if each.type != "softbreak")
        for block in PARSER.parse(page)
        if block.type == "inline"
    ]


def widths(page: str) -> list[int]:
    """The number of cells in each line of a table, as GitHub splits it."""
    lines = [line for line in page.split("\n") if line.startswith("|")]
    return [len(re.findall(r"(?<!\\)(?:\\\\)*\||\|", re.sub(r"\\.", "", line))) for line in lines]


def test_a_name_is_shown_as_it_is_wherever_it_stands():
    strings = count(short=300, full=10_000)
    settings(max_examples=strings)(given(hostile)(in_every_place))()
    told(
        "hostile strings in a cell, a heading, a list, bold, a paragraph and a quotation",
        strings,
        "shown as they are; no element but the page's own",
    )


def in_every_place(name):
    """Raise AssertionError where a name makes an element, or is not shown."""
    line, shown = escape(name), clean(name)

    def page(text: str) -> str:
        table = markdown(["entry", text, "n"], [[text, "1", text], ["a", text, "2"]], numeric=1)
        return "\n".join(
            [f"# {text}", "", *table, "", f"- {text}: 1", f"- b: **{text}**, {text} = {text}", "",
             f"{text} less {text}:", "", f"> **{text} WAS", "> asked for**", ""]
        )  # fmt: skip

    assert shape(page(line)) == shape(page("name"))
    assert texts(page(line)) == [
        *(shown, "entry", shown, "n", shown, "1", shown, "a", shown, "2", f"{shown}: 1"),
        *(f"b: {shown}, {shown} = {shown}", f"{shown} less {shown}:", f"{shown} WASasked for"),
    ]


def page_of(name) -> str:
    """A page whose every text from a record, and every one around it, is asked for by number."""
    remedies = [{"name": name(0), "settings": {name(1): name(2), name(3): [name(4)], "rate": 1}}]
    corpus = {
        "name": name(5), "requested": name(6), "sha256": name(7), "level": name(8),
        "vocabulary": {"types": 50, "tokenizer": name(9), "unknown_share_of_test": 0.1},
        "labelled": {name(10): {"train": 1, "valid": 1, "test": 1}},
    }  # fmt: skip
    shared = {
        "corpus": corpus.items(),
        "settings": {
            "sizes": {"hidden": name(11), name(12): 3},
            "training": {name(13): name(14), "budget": 1000},
            "evaluation": {"samples": name(15)},
        },
        "environment": {
            "collapse_bench": name(16), "python": name(16), "torch": name(16),
            "device": name(17), "threads": name(16), "platform": name(17), "commit": name(16),
            "precision": {"training": name(16), "evaluation": name(17)},
        },
        "scored": {"collapse_bench": name(16), "commit": name(17)},
        "architecture": name(18),
    }  # fmt: skip
    entries = [f"{name(19)}{place}" for place in "abcd"]
    about = {key_of("nll"): 103.0, f"information_about_{name(20)}@1": 0.5}
    records = [
        language_model(**shared),
        record(**shared),
        *(record(entries[0], seed, levers=["step"], remedies=remedies, nll=103.0 - seed,
                 useful_beyond=1.0 + seed, **shared) for seed in (1, 2)),
        record(entries[1], status="failed", error=f"x\n{name(21)}", **shared),
        record(entries[2], bound="invalid", bound_reasons=[name(22)], **shared),
        record(entries[3], verdict=name(23), levers=["build"], remedies=remedies, **shared),
    ]  # fmt: skip
    records[1]["metrics"] |= about
    records[1]["label_entropy"] = {name(20): 1.0}
    curves = {entries[0]: [entries[0], entries[3]]}
    return render("tiny", sections_of(keys(records), records), curves)


def test_a_page_of_hostile_records_has_the_elements_of_any_other():
    pages, lists = count(short=10, full=420), st.lists(hostile, min_size=NAMES, max_size=NAMES)
    settings(max_examples=pages)(given(lists)(on_a_page))()
    told(
        f"pages of records in which {NAMES} texts are hostile",
        pages,
        "the elements, links and columns of any other page, and every text on it",
    )


def on_a_page(names):
    """Raise AssertionError where names make an element, or one is not shown."""
    page = page_of(lambda number: f"{names[number]}{number:02}")  # or two may be the same
    other = page_of(lambda number: f"name{number:02}")
    assert shape(page) == shape(other)
    assert widths(page) == widths(other)
    assert not re.search("[\0-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    shown = "\n".join(texts(page)).upper()  # as the one is that was asked for
    for number, name in enumerate(names):
        text = f"{name}{number:02}"
        if number == 4:  # in a list, which is shown as Python writes it
            text = repr(text)
        if number == 21:  # of an error the last line, so much of it
            text = text.splitlines()[-1][:200]
        assert clean(text).upper() in shown
