"""The settings that ship are found by name, wherever vidmarl is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vidmarl.cli import main
from vidmarl.data.module import ClipData
from vidmarl.data.synthetic import Synthetic
from vidmarl.errors import ClipError
from vidmarl.utils.recipes import list_configs, recipes_root, with_recipes

ROOT = Path(__file__).resolve().parent.parent


def test_every_file_of_settings_has_a_name() -> None:
    files = {path.relative_to(ROOT / "conf").with_suffix("").as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    assert set(list_configs()) == files
    assert {"movinet_ucf101", "synthetic", "distortion/gaussian_noise"} <= files


@pytest.mark.parametrize("name", ["small", "small.yaml", "conf/small.yaml"])
@pytest.mark.parametrize("words", [["-c", "{}"], ["--config", "{}"], ["--config={}"]])
def test_a_name_leads_to_its_file(name: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = with_recipes(["fit", *[word.format(name) for word in words], "--model.victim", "small"])
    assert told[-1] == "small"
    assert Path(told[-3].removeprefix("--config=")) == recipes_root() / "small.yaml"


def test_a_file_that_is_there_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text("seed: 1\n", "utf-8")
    assert with_recipes(["fit", "-c", "small.yaml"]) == ["fit", "-c", "small.yaml"]
    assert with_recipes(["fit", "-c", "nothing"]) == ["fit", "-c", "nothing"]


def test_a_misspelt_name_is_answered_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["fit", "-c", "movinet_ucf11"])
    assert "did you mean movinet_ucf101 or " in capsys.readouterr().err


def test_drawn_clips_are_data_for_training() -> None:
    data = ClipData(
        train=Synthetic(4, 0, 4, 32), val=Synthetic(2, 1, 4, 32), batch_size=2, eval_batch_size=2, repeats=3
    )
    assert [tuple(clips.shape) for clips in data.train_dataloader()] == [(2, 3, 4, 32, 32)] * 6
    [(clips, positions)] = data.val_dataloader()
    assert tuple(clips.shape) == (2, 3, 4, 32, 32)
    assert positions.tolist() == [0, 1]
    with pytest.raises(ClipError, match="drawn by the same seed"):
        ClipData(train=Synthetic(4, 0), val=Synthetic(2, 0))


@pytest.mark.slow
def test_a_training_needs_no_data(tmp_path: Path) -> None:
    """In a folder that holds nothing, against the user's own network."""
    (tmp_path / "mine.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def __init__(self, k=4):\n        super().__init__()\n"
        "        self.head = torch.nn.Linear(3, k)\n\n    def forward(self, clips):\n"
        "        return 20 * self.head(clips.mean((2, 3, 4)))\n",
        "utf-8",
    )
    fit = ["fit", "-c", "synthetic", "--trainer.max_epochs", "2", "--data.train.init_args.n", "8"]
    mine = ["--model.victim", '{"class_path": "mine.py:Net", "init_args": {"spec": {"frames": 4, "size": 32}}}']
    mine += ["--model.weights", "null", "--model.spec", "null", "--trainer.accelerator", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "vidmarl", *fit, *mine], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.glob("outputs/synthetic/*/checkpoints/best.ckpt"))
