"""Words of medvit's own prose: plain technical English, without the phrases that make a text read as translated.

Prose is docstrings, comments, messages, help texts, Markdown, and comments of configurations; of tests, docstrings and
comments. Code in backticks and values of options (`seen_patients=leave_out`) are names, not prose.
"""

from __future__ import annotations

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).parent.parent

MAX_PER_THOUSAND = 0.4
"""Largest share of phrases to avoid, of a thousand words."""

BE = r"(?:is|are|was|were|be|been|being)"
PHRASES = {
    "not (not: is no X)": rf"(?<!there )(?<!There )\b{BE} (?:no|none|nobody)\b"
    r"(?! (?:longer|worse|more|less|basis|reason|[a-z]+er)\b)",
    "missing (not: there is none)": rf"\b[Tt]here {BE} none\b",
    "not (not: of no X)": r"\b(?:of|from|in|to|on) no (?!more|less|longer|particular|use\b|GPU|CPU)",
    "not (not: names no X)": r"\b(?:names?|needs?|refers? to|reads?|makes?|takes?|knows?|carr(?:y|ies)|states?|shows?"
    r"|leaves?|writes?|holds?|gets?|depends? on|stops?) no (?!more|less|longer|effect|action|time|action|further)\w+",
    "unset (not: none takes)": r"[;:] none (?!(?:of|stated|at all|among|is|was|were)\b)|\bnone where\b"
    r"|(?<!or )\bnone (?:takes|starts|keeps|leaves|means|uses|lets|makes|does|has)\b",
    "non-finite (not: no number)": r"\b(?:is|are|a|be) no (?:real |finite )?number\b(?! of)",
    "a noun first (not: What ...)": r"(?:^|(?<=[.;] )|(?<=\*\* ))(?:What|Whom|Whose|Who)\b(?![^.]*\?)(?! to do if)",
    "a noun first (not: Where ...)": r"^(?:Where|How|Which|That|Whether or)\b(?![^.]*\?)(?!(?: \w+)+,)",
    "a noun (not: what is ...)": r"\b(?:and|of|than|beside|as|counts?|finds?|reads?|than|keep|remove) what"
    r"(?: (?:is|are|was|were|it|they|one|each|follows|a|the)\b)(?![^.]*\?)(?! (?:to do|was expected))",
    "a noun (not: whom)": r"\b[Ww]hom\b|\b(?:for|of) who\b|\b(?:of|to|in|from|by|with|on) whose\b",
    "whose patient (not: whose it is)": r"\bwhose every\b"
    rf"|\bwhose (?:it|they|each|only|own|an? \w+|the \w+(?: \w+)?) (?:\w+ )?{BE}\b",
    "describe, report (not: tell)": r"\b(?:tell|tells|told|telling)\b",
    "state, report, name (not: say)": r"\b(?:say|says|said|saying)\b",
    "is stored, is (not: lie)": r"\b(?:lie|lies|lay|lain|lying)\b",
    "pass on (not: hand on)": r"\bhand(?:s|ed|ing)?(?: \w+){0,2} (?:on|over|down)\b|\bhand batches\b",
    "continue (not: go on)": r"\b(?:go|goes|going|went|gone|[Gg]oing) on\b",
    "compare with (not: hold against)": r"\b(?:hold|holds|held|holding)(?: \w+){0,4} against\b",
    "contain, store, keep (not: hold)": r"(?<!can )(?<!cannot )(?<!not )(?<!same )\b(?:hold|holds|held|holding)\b"
    r"(?!-| the GIL| out\b| but\b)",
    "remain, keep (not: stay)": r"(?<!hospital )(?<!length of )\bstay(?:s|ed|ing)?\b",
    "skip (not: pass over)": r"(?<![Aa] )(?<!one )\bpass(?:es|ed|ing)? over\b"
    r"(?! the (?:training )?(?:images|data)| \d)",
    "again (not: anew)": r"\banew\b",
    "alternately (not: by turns)": r"\b(?:by turns|in turns?)\b",
    "differently (not: otherwise)": r"\b(?:names?|named|written|numbered|stained|out|ends?|says?|told|called"
    r"|reads?|looks?|done|drawn|spell(?:ed|s)?|encod(?:ed|es)|had|turned) otherwise\b",
    "not the one that (not: another than)": r"\b(?:another|something else|others) than\b",
    "of the others (not: others')": r"\bothers'",
    "beside, in addition to (not: besides)": r"\b[Bb]esides\b",
    "the object's name (not: thing)": r"\b[Tt]hings?\b",
    "near duplicate (not: look-alike)": r"\blook(?:-|s? )?alikes?\b",
    "crosswalk (not: way back)": r"\bway back\b",
    "epochs (not: rounds)": r"\b[Rr]ounds\b(?! (?:to|up|down|half|off|positions)\b)"
    r"|\b(?:a|each|every|per|this|last|first|uncounted) round\b(?! (?:field|frame|disc|image))",
    "aggregation level (not: level)": r"(?<!ggregation )\b[Ll]evels?\b(?=[^.;\n]{0,40}\b(?:eye|visit|patient)s?\b)",
    "merge (not: unite)": r"\b[Uu]nit(?:e|es|ed|ing)\b(?! States| Imaging)",
    "rank 0 (not: the leader)": r"\bleaders?\b|\b(?:one|process|rank|who) (?:that |who )?leads\b",
    "exclude (not: leave out)": r"\b(?:leave|leaves|left|leaving)(?: \w+){0,3} out\b",
    "needles and matcher (not: sought)": r"\bhaystacks?\b|\bsought\b|\bseeks?\b",
    "view loader (not: feeding)": r"\b[Ff]eeding\b",
    "trained on (not: learned from)": r"\blearn(?:s|ed|t)? (?:from|of)\b",
    "initial weights (not: start weights)": r"\b[Ss]tart(?:ing)? weights\b|\bweights of the start\b"
    r"|\bstarts? at random\b",
    "license (not: licence)": r"\b[Ll]icence",
    "profiling (not: measuring)": r"\bmeasuring\b",
    "effect size (not: shift)": r"\b(?:a large|a small|no|large|small|largest) shifts?\b",
    "header cache (not: memory)": r"\bmemory of (?:the )?(?:headers?|files|earlier|what)\b",
    "continued training (not: further)": r"\b[Tt]rain(?:s|ed|ing)?(?: \w+){0,4} further\b"
    r"|\bfurther (?:training|words)\b",
}
"""What to write (what not to write) -> pattern of the phrase to avoid, in the text of one paragraph."""

NAMES = re.compile(r"``.*?``|`[^`]*`|\b[\w.]+=\S+|https?://\S+")
"""Names of code in prose."""


class Prose(NamedTuple):
    """A paragraph with the line it starts on; `text` keeps its line breaks."""

    line: int
    text: str

    def offenders(self) -> Iterator[tuple[int, str, str]]:
        """Yield line, phrase and what to write instead."""
        text = NAMES.sub(lambda match: "_" * len(match.group()), self.text)
        flat = text.replace("\n", " ")
        for advice, pattern in PHRASES.items():
            for match in re.finditer(pattern, flat):
                context = self.text[max(0, match.start() - 30) : match.end() + 30].replace("\n", " ")
                yield self.line + text.count("\n", 0, match.start()), context, advice


def words(text: str) -> int:
    return len(re.findall(r"[^\W\d_]{2,}", NAMES.sub(" ", text)))


STRING = re.compile(r"""^([rRbBuUfF]*)('{3}|"{3}|'|")(.*)\2$""", re.DOTALL)
BEFORE_DOCSTRINGS = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}
MIN_WORDS = 3
"""Of a string that is a sentence, rather than a name or a key."""


def python_prose(source: str, *, with_messages: bool) -> Iterator[Prose]:
    """Yield docstrings, comments and messages; the pieces of a joined string or of consecutive comments as one."""
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type != tokenize.NL]
    pieces: list[tuple[str, int, str]] = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == tokenize.COMMENT:
            kind, text = "comment", token.string.lstrip("# ")
            is_joined = bool(before) and before.type == tokenize.COMMENT and before.end[0] == token.start[0] - 1
        elif (
            token.type == tokenize.STRING
            and (match := STRING.match(token.string))
            and not ("r" in match[1].lower() and len(match[2]) == 1)
        ):
            is_doc = len(match[2]) == 3 and (before is None or before.type in BEFORE_DOCSTRINGS)
            kind, text = "doc" if is_doc else "message", re.sub(r"\{[^{}]*\}", "_", match[3])
            is_joined = bool(before) and before.type == tokenize.STRING
        else:
            continue
        if is_joined and pieces and pieces[-1][0] == kind:
            joint = "\n" if kind == "comment" else "\n" * (token.start[0] - before.end[0])
            pieces[-1] = (kind, pieces[-1][1], pieces[-1][2] + joint + text)
        else:
            pieces.append((kind, token.start[0], text))
    for kind, line, text in pieces:
        if kind == "message" and (not with_messages or words(text) < MIN_WORDS):
            continue
        if text.startswith(("type: ignore", "noqa")):
            continue
        yield from paragraphs(line, text)


def paragraphs(line: int, text: str) -> Iterator[Prose]:
    """Yield the paragraphs of a text, without indentation; items of a list are paragraphs."""
    start, block = line, []
    for number, row in enumerate(text.split("\n"), line):
        row = row.strip()
        if block and (not row or re.match(r"[-*|] |\d+\. |#+ ", row)):
            yield Prose(start, "\n".join(block))
            block = []
        if row:
            start = start if block else number
            block.append(re.sub(r"^(?:[-*] |\d+\. |#+ )", "", row))
    if block:
        yield Prose(start, "\n".join(block))


def markdown_prose(source: str) -> Iterator[Prose]:
    """Yield paragraphs outside of code blocks; cells of tables are read as a paragraph a row."""
    text = re.sub(
        r"^```.*?^```", lambda block: "\n" * block.group().count("\n"), source, flags=re.DOTALL | re.MULTILINE
    )
    yield from paragraphs(1, text)


def comment_prose(source: str) -> Iterator[Prose]:
    """Yield the comments of YAML, TOML, Makefiles and Dockerfiles; consecutive lines as one."""
    rows = (re.search(r"(?:^|\s)#+ ?(.*)", row) for row in source.split("\n"))
    yield from paragraphs(1, "\n".join(found[1] if found else "" for found in rows))


def prose_of(path: Path) -> list[Prose]:
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        is_test = path.is_relative_to(PROJECT / "tests")
        return list(python_prose(source, with_messages=not is_test))
    return list(markdown_prose(source) if path.suffix == ".md" else comment_prose(source))


def files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    paths = [PROJECT / name for name in listed.split("\0") if name]
    return [
        path
        for path in paths
        if (path.suffix in {".py", ".md", ".yaml", ".toml"} or path.name.startswith(("Makefile", "Dockerfile")))
        and path.name not in {"test_words.py", "own_words.py"}
        and not path.is_relative_to(PROJECT / "tests" / "fixtures" / "2026-11")
        and path.exists()
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Files that are no DICOM are listed.",
        "Its images are of no patient.",
        "Regular expression for the patient; none takes PatientID.",
        "The loss is no number.",
        "What is said of a patient.",
        "Where the file of a slide ends.",
        "The patients on whom it was tested.",
        "The file does not name whose it is.",
        "Identical images are told of.",
        "The header says 16 bits.",
        "Its file lies in the folder.",
        "The weights are handed on to the next stage.",
        "The run goes on after an interruption.",
        "The rest is held against a threshold.",
        "The record stays in the journal.",
        "A run that failed is passed over.",
        "The card is made anew.",
        "Both are read by turns.",
        "Elements that others name otherwise.",
        "The file is another than when it was found.",
        "The others' results are kept.",
        "Texts besides the pixels.",
        "The number of things in a mask.",
        "Groups of look-alikes.",
        "The way back to the patient.",
        "Its best of ten rounds.",
        "Results by level: image, eye and patient.",
        "Datasets are united.",
        "Only the leader writes.",
        "Such images are left out.",
        "Words too short to be sought.",
        "Feeding of batches.",
        "The patients that a model has learned from.",
        "Its start weights.",
        "The licence of the data.",
        "Profiling, measuring a training.",
        "There is a large shift of age.",
        "A memory of headers.",
        "An optional label; empty if there is none.",
        "The reason names no patient.",
        "The list of what was not taken.",
        "The patients of whose images some are refused.",
        "A server whose every byte is late.",
        "The values lie between 0 and 1.",
        "Going on with an adapter.",
        "The folder holds a dataset.",
        "All tasks run in turn.",
        "Groups of images that look alike.",
        "Alarms of a round.",
        "Few images to learn from.",
        "Weights that start at random.",
        "Slices for measuring the time.",
        "Trains the adapter further.",
    ],
)
def test_a_phrase_to_avoid_is_found(text: str) -> None:
    assert list(Prose(1, text).offenders())


@pytest.mark.parametrize(
    "text",
    [
        "There is no image in the folder, and it is no longer read.",
        "None of the images is flagged; none of the labels is missing.",
        "The length of stay, and a hospital stay.",
        "A pass over the data takes an hour.",
        "If it is a volume, its slices; otherwise, the image.",
        "The value is between 0 and 1, and rounds to 0.",
        "The name has no suffix, and there is no mask.",
        "A file of this size can hold the pixels of held-out patients.",
        "What to do if several series match.",
        "Each message states what was found, where, and what to do.",
        "The fundus has a round field of view.",
        "Gray levels of the image; the level of a pyramid.",
        "Which of these is right?",
        "Where sform and qform differ, sform is used.",
        "Set `none`, `leave_out` or `otherwise`, as in seen_patients=leave_out.",
        "On the other hand, images may be merged.",
        "The leading axis is that of the batch.",
    ],
)
def test_plain_english_is_not_found(text: str) -> None:
    assert [advice for _, _, advice in Prose(1, text).offenders()] == []


def test_phrases_to_avoid_are_rare() -> None:
    num_words, found = 0, []
    for path in files():
        for prose in prose_of(path):
            num_words += words(prose.text)
            name = path.relative_to(PROJECT).as_posix()
            found += [f"{name}:{line}: ...{context}... {advice}" for line, context, advice in prose.offenders()]
    per_thousand = 1000 * len(found) / num_words
    assert num_words > 100_000
    assert per_thousand < MAX_PER_THOUSAND, "\n" + "\n".join(
        [*found, f"{len(found)} phrases in {num_words} words: {per_thousand:.2f} of a thousand"]
    )
