"""The demo: an interrupted run ends with the numbers of one that was never stopped, and it fails with clear words."""

import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

for package in ("mlxtend", "matplotlib", "tqdm"):
    pytest.importorskip(package, reason=f"the demo needs {package}")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))

import smoothing_figure  # noqa: E402
import train  # noqa: E402
from dvae import checkpoint  # noqa: E402
from dvae.data import Digits, load_digits  # noqa: E402
from dvae.latent import BITS, CODES, GRID, Binary, Categorical, Latent  # noqa: E402
from dvae_kernels import SMOOTHING_KINDS  # noqa: E402
from dvae_kernels.nn import Schedule  # noqa: E402


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


@pytest.fixture
def few_digits(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A small data set, and one thread: the tests must not depend on how many cores are free."""
    monkeypatch.setattr(train, "load_digits", lambda: Digits(digits.train[::80], digits.test[::20]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    else:
        assert a == b, where


def final_state(out: Path) -> dict[str, Any]:
    state = checkpoint.load(out / "checkpoint.pt")
    del state["seconds"]
    return state


@pytest.mark.parametrize("latent", [["--soft"], ["--hard"], ["--latent", "smoothing:power"]], ids=lambda x: x[-1])
def test_resumed_run_is_bit_identical(
    latent: list[str],
    few_digits: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # 50 images in batches of 20: the interruption falls inside an epoch, and the order is drawn anew after it
    options = ["--device", "cpu", "--steps", "4", "--batch-size", "20", "--tau-end", "0.3", "--beta-end", "5", *latent]
    assert train.main([*options, "--out", str(tmp_path / "whole")]) == 0
    whole_output = capsys.readouterr().out

    step = train.train_step

    def interrupted(run: train.Run, *args: Any) -> float:
        elbo = step(run, *args)
        if run.step == 3:
            signal.raise_signal(signal.SIGINT)
        return elbo

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", interrupted)
        assert train.main([*options, "--out", str(tmp_path / "parts")]) == 130
    assert f"--out {tmp_path / 'parts'} --resume" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "parts" / "checkpoint.pt")["step"] == 3
    assert not (tmp_path / "parts" / "demo.png").exists()

    torch.manual_seed(99)  # what happens between the two must not matter
    assert train.main(["--device", "cpu", "--out", str(tmp_path / "parts"), "--resume"]) == 0
    assert_equal(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))
    elbo_lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Test ELBO")]
    assert len(elbo_lines) == 1 and elbo_lines[0] in whole_output
    assert (tmp_path / "parts" / "demo.png").read_bytes() == (tmp_path / "whole" / "demo.png").read_bytes()
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["checkpoint.pt", "demo.png"]


def test_evaluation_leaves_training_alone(few_digits: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    for points in (1, 3):
        monkeypatch.setattr(train, "CURVE_POINTS", points)
        assert train.main(["--device", "cpu", "--steps", "3", "--batch-size", "10", "--out", str(tmp_path)]) == 0
        state = checkpoint.load(tmp_path / "checkpoint.pt")
        assert len(state["curve"]) == points
        weights.append({"model": state["model"], "optimizer": state["optimizer"], "rng": state["rng"]})
    assert_equal(*weights)


@pytest.mark.parametrize("kind", SMOOTHING_KINDS)
def test_every_kind_of_bits_trains(
    kind: str, few_digits: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "draw", lambda *_: None)
    options = ["--device", "cpu", "--steps", "2", "--batch-size", "10", "--latent", f"smoothing:{kind}"]
    assert train.main([*options, "--out", str(tmp_path)]) == 0
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert state["schedule"]["position"] == 2
    assert all(parameter.isfinite().all() for parameter in state["model"].values())


def latents() -> list[Latent]:
    return [Categorical(Schedule(1, 1, 1), False, None), Binary(Schedule(2, 2, 1), "power", None)]


@pytest.mark.parametrize("latent", latents(), ids=lambda latent: type(latent).__name__)
def test_latents(latent: Latent) -> None:
    """Exact samples do not depend on the batch that an image is in, and are codes; the divergence is that of codes."""
    logits = torch.randn(6, latent.channels, GRID, GRID)
    sample = latent.exact(logits, seed=3)
    assert sample.shape == logits.shape and sample.unique().tolist() == [0, 1]
    assert torch.equal(latent.exact(logits[2:], seed=3, first=2), sample[2:])
    codes = latent.codes(sample)
    assert codes.shape == (6, CODES, GRID, GRID) and torch.equal(codes.sum(1), torch.ones(6, GRID, GRID))
    assert latent.codes(latent.prior(9, torch.Generator().manual_seed(0))).shape == (9, CODES, GRID, GRID)
    certain = torch.full_like(logits, -40)
    certain[:, -1] = 40  # one category, or bits 0001
    torch.testing.assert_close(latent.kl(certain), torch.full((6, GRID, GRID), math.log(CODES)))
    assert latent.kl(torch.zeros_like(logits)).abs().max() < 1e-6
    assert latent.relaxed(logits).shape == latent.peer(logits).shape == logits.shape


def test_codes_of_bits_number_their_patterns() -> None:
    bits = torch.tensor([1.0, 0, 1, 1]).reshape(1, BITS, 1, 1).expand(1, BITS, GRID, GRID)
    codes = latents()[1].codes(bits)
    assert codes[0].argmax(0).unique().tolist() == [1 + 4 + 8]


def test_the_figure_of_the_smoothing_kinds(tmp_path: Path) -> None:
    assert smoothing_figure.main(["--out", str(tmp_path / "smoothing.png")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["smoothing.png"]
    assert (tmp_path / "smoothing.png").read_bytes().startswith(b"\x89PNG")


def test_split_is_stratified_and_fixed(digits: Digits) -> None:
    assert digits.train.shape == (4000, 1, 28, 28) and digits.test.shape == (1000, 1, 28, 28)
    assert digits.test.unique().tolist() == [0, 1]
    assert digits.train.min() >= 0 and digits.train.max() == 1
    assert torch.equal(load_digits().test, digits.test)


def test_checkpoint_survives_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"step": 1})

    def fail(state: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tau-start", "0"], "expected a finite number above 0, got 0"),
        (["--tau-end", "nan"], "expected a finite number above 0, got nan"),
        (["--steps", "-1"], "expected a finite number above 0, got -1"),
        (["--resume"], "nothing to resume: there is no"),
        (["--latent", "smoothing:sharp"], "invalid choice: 'smoothing:sharp'"),
        (["--latent", "smoothing:power", "--hard"], "--hard goes with --latent gumbel only"),
    ],
)
def test_bad_options(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        train.main([*arguments, "--out", str(tmp_path / "new")])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_bad_backend(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="backend 'cuda' is not available for cpu tensors"):
        train.main(["--device", "cpu", "--backend", "cuda", "--out", str(tmp_path / "new")])
    with pytest.raises(SystemExit, match="unknown backend 'fast'"):
        train.main(["--device", "cpu", "--backend", "fast", "--out", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_resuming_with_other_latents(few_digits: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--device", "cpu", "--steps", "1", "--batch-size", "10", "--out", str(tmp_path)]
    assert train.main(options) == 0
    with pytest.raises(SystemExit):
        train.main([*options, "--resume", "--latent", "smoothing:root"])
    assert "is a run with --latent gumbel, not smoothing:root" in capsys.readouterr().err


def test_resuming_a_broken_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(tmp_path / "checkpoint.pt", {"step": 1})
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit):
        train.main(["--out", str(tmp_path), "--resume"])
    assert "is not a checkpoint of this demo" in capsys.readouterr().err


def test_missing_packages_are_named(tmp_path: Path) -> None:
    program = f"""
import runpy, sys
for package in ("mlxtend", "matplotlib", "tqdm"):
    sys.modules[package] = None
    try:
        runpy.run_path({str(EXAMPLES / "train.py")!r})
    except SystemExit as exit:
        print(exit)
    del sys.modules[package]
"""
    environment = {"PYTHONPATH": f"{EXAMPLES}:{EXAMPLES.parent}"}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.stdout.splitlines() == [
        f"The demo needs {package}; install it with: pip install 'dvae_kernels[demo]'"
        for package in ("mlxtend", "matplotlib", "tqdm")
    ], result.stderr
