"""Every public function is documented, examples in docstrings and pages run, and links lead somewhere."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import io
import re
from pathlib import Path

import pytest
import torch

import dvae_kernels
from dvae_kernels import losses, nn

ROOT = Path(__file__).parents[1]
FILES = sorted(
    [
        *ROOT.glob("*.md"),
        *(page for folder in ("bench", "csrc", "docs", "dvae_kernels") for page in ROOT.glob(f"{folder}/**/*.md")),
    ]
)
ALL_PAGES = [page.relative_to(ROOT) for page in FILES]
# test_how_to.py runs the example of a how-to page
PAGES = [page for page in ALL_PAGES if ">>>" in (ROOT / page).read_text() and page.parent.name != "how-to"]
CONTRIBUTORS_PAGES = [page for page in ALL_PAGES if page.parts[0] in ("bench", "csrc", "docs", "CONTRIBUTING.md")]
BASES = ("", "dvae_kernels", "csrc", "bench", "tests")
EXAMPLE = "squared_norm"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PUBLIC = {
    name: getattr(module, name)
    for module in (dvae_kernels, losses, nn)
    for name in module.__all__
    if callable(getattr(module, name))
}
DOCUMENTED = [name for name, thing in PUBLIC.items() if thing.__module__ != "dvae_kernels._backend"]


def run(test: doctest.DocTest) -> None:
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append)
    assert result.failed == 0, "".join(report)


def names() -> dict[str, object]:
    exported = {name: getattr(dvae_kernels, name) for name in dvae_kernels.__all__}
    return {"torch": torch, "dvae_kernels": dvae_kernels, **exported, **PUBLIC}


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_examples(name: str) -> None:
    thing = PUBLIC[name]
    assert inspect.getdoc(thing), f"{name} has no docstring"
    for test in doctest.DocTestFinder(recurse=False).find(thing, name, globs=names()):
        run(test)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstrings_document_every_argument_and_the_errors(name: str) -> None:
    thing = PUBLIC[name]
    text = inspect.getdoc(thing) or ""
    for argument in inspect.signature(thing).parameters:
        assert f"{argument}:" in text, f"{name} does not document {argument}"
    returns = [] if inspect.isclass(thing) else ["Returns:"]
    for section in ("Args:", *returns, "Raises:", "Source:", "Example:", ">>>"):
        assert section in text, f"{name} has no {section}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_page_examples(page: Path) -> None:
    run(doctest.DocTestParser().get_doctest((ROOT / page).read_text(), names(), str(page), str(page), 0))


def test_the_readme_trains() -> None:
    """The fenced python blocks run, in order, in one namespace; the loss that the first one prints falls."""
    readme = ROOT / "README.md"
    blocks = [part.split("```", 1)[0] for part in readme.read_text().split("```python\n")[1:]]
    assert len(blocks) >= 2, "the README shows no use"
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, str(readme), "exec"), namespace)
    losses = [float(number) for number in re.findall(r"step \d+: ([\d.]+)", printed.getvalue())]
    assert len(losses) == 5 and losses[-1] < losses[0] / 3, losses


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", ALL_PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken_links(ROOT / page)


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading: one\n[a](gone.md) [b](#a-heading-one) [c](#no-such) [d](page.md#nor-this)\n")
    assert broken_links(page) == ["gone.md", "#no-such", "page.md#nor-this"]


@pytest.mark.parametrize("page", CONTRIBUTORS_PAGES, ids=str)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    """Paths in backquotes, written from the root or from one of the folders BASES; EXAMPLE is what a page adds."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    paths = re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text)
    missing = [p for p in paths if EXAMPLE not in p and not any((ROOT / base / p).exists() for base in BASES)]
    assert not missing


def test_every_op_has_a_page_and_a_note() -> None:
    """The README leads to the page of each op, and each op with a benchmark has a note."""
    readme = (ROOT / "README.md").read_text()
    for folder in sorted((ROOT / "dvae_kernels" / "ops").iterdir()):
        if (folder / "op.py").exists():
            page, note = f"dvae_kernels/ops/{folder.name}/README.md", f"bench/notes/{folder.name}.md"
            assert page in readme, f"README.md: expected a row of the table of names that leads to {page}"
            assert (ROOT / note).exists(), f"expected {note}"


def test_the_docstring_defines_the_special_values() -> None:
    text = inspect.getdoc(dvae_kernels.gumbel_softmax) or ""
    special = ("tau = 0", "-inf logits", "only -inf", "NaN or +inf", "ties", "empty input", "negative, NaN or infinite")
    for words in special:
        assert words in text
