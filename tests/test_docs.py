"""Every public function is documented, and the examples in docstrings and READMEs run."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest
import torch

import dvae_kernels
from dvae_kernels import losses, nn

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("*.md"), *ROOT.glob("dvae_kernels/**/*.md")])
PAGES = [page.relative_to(ROOT) for page in FILES if ">>>" in page.read_text()]
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


def test_readme_python_blocks() -> None:
    """The fenced python blocks run, in order, in one namespace."""
    readme = ROOT / "README.md"
    blocks = [part.split("```", 1)[0] for part in readme.read_text().split("```python\n")[1:]]
    assert blocks, "the README shows no use"
    namespace: dict[str, object] = {}
    for block in blocks:
        if ">>>" not in block:
            exec(compile(block, str(readme), "exec"), namespace)


def test_the_docstring_defines_the_special_values() -> None:
    text = inspect.getdoc(dvae_kernels.gumbel_softmax) or ""
    special = ("tau = 0", "-inf logits", "only -inf", "NaN or +inf", "ties", "empty input", "negative, NaN or infinite")
    for words in special:
        assert words in text
