"""Hardening a victim: attacks find clips that it is wrong about, it learns what they show, and the
attacks are made again.

Each round attacks other windows of the training clips, and the victim as it is by then (Madry et
al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks"); it is then trained on
clean clips and on the adversarial ones of all rounds. Before and after, it is attacked on test
clips that no training has seen, with a seed that no round had, also by attacks that it was not
hardened with.

Until all is done, the work lies in `OUT.unfinished`, and the same call goes on from there:

    job.json            what decides the results
    round-1/            adversarial.pt and victim.pt of each round
    answers             what the victim has answered in the attack at work
    new/                what becomes OUT: victim.pt, results.json, report.md, figures.csv, the
                        attacks' results in before/ and after/, and audits in audit/
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from vidmarl._version import __version__
from vidmarl.attacks import Attack, AttackResult, as_attack
from vidmarl.attacks.identity import identity
from vidmarl.audit.compare import compare_audits
from vidmarl.audit.data import as_source
from vidmarl.audit.harden_clips import MixedClips
from vidmarl.audit.harden_figures import compare, markdown, table
from vidmarl.audit.result import AuditResult
from vidmarl.audit.run import audit
from vidmarl.data.base import ClipDataset, ClipSource
from vidmarl.data.module import DrawnClips, forbid_overlap
from vidmarl.data.synthetic import Synthetic
from vidmarl.data.video import as_batch
from vidmarl.errors import SettingsError
from vidmarl.registry import call
from vidmarl.training.victim import VictimTraining
from vidmarl.training.victim_data import LabelledClips
from vidmarl.utils.files import load_tensors, readable, resumable_directory, save_tensors, write_atomically
from vidmarl.utils.kinds import check_least
from vidmarl.utils.quiet import quiet
from vidmarl.victims.journal import journaled
from vidmarl.victims.loading import load_victim
from vidmarl.victims.saved import network_name, network_of, save_victim
from vidmarl.victims.victim import Victim

AttackLike = Attack | str | dict[str, Any]
FILE, FIGURES, RECORD, REPORT, AUDITS = "victim.pt", "figures.csv", "results.json", "report.md", "audit"
SEEDS = 1000
"""Seeds apart between two hardenings: that of the test is the first of them, then one a round."""


@dataclasses.dataclass(frozen=True)
class Hardening:
    """What a hardening is made of.

    Args:
        victim: who is hardened: a name, a path or a description for `vidmarl.load_victim`, or a
            `Victim`. Its classes are those of the clips: `vidmarl victims fit` sees to that.
        train: the clips that it is hardened on: a dataset, or what names one, such as a folder with
            a folder for each class.
        test: the clips that tell what came of it.
        attack: what it is hardened with: a name, or class_path and init_args.
        unseen: attacks that it is only tested with, by the names in the report.
        weights: of a named victim; None: its own.
        spec: how clips are cut, where that differs from the victim's own way.
        rounds: how often the training clips are attacked anew.
        epochs: passes over clean and adversarial clips in each round.
        repeats: how often each clean clip is drawn in a pass, each time another window.
        lr: the highest learning rate of a round.
        freeze: the parameters that keep their values, see `VictimTraining`.
        mirror: whether a clip seen in a mirror shows the same class.
        batch_size: clips of a training step.
        clips_at_once: clips that are attacked side by side.
        audit: settings of `vidmarl.audit`, {} for the usual ones: the victim is audited before and
            after, on the test clips, and the two are compared; None: it is not.
        seed: of attacks, order and augmentation.
        device: where it runs; "auto" is a GPU where there is one.
        out: the folder of results.

    Raises:
        ValueError: a number is out of its range, or an unseen attack is called as the one seen.
        UnknownNameError, SettingsError: there is no such attack, or it has no such setting.
    """

    victim: Victim | str | dict[str, Any]
    train: ClipSource | Synthetic | str
    test: ClipSource | Synthetic | str
    attack: AttackLike = "grow_and_reduce"
    unseen: dict[str, AttackLike] = dataclasses.field(default_factory=dict)
    weights: str | None = None
    spec: dict[str, Any] = dataclasses.field(default_factory=dict)
    rounds: int = 3
    epochs: int = 2
    repeats: int = 1
    lr: float = 2e-4
    freeze: list[str] = dataclasses.field(default_factory=list)
    mirror: bool = True
    batch_size: int = 8
    clips_at_once: int = 16
    audit: dict[str, Any] | None = None
    seed: int = 0
    device: str = "auto"
    out: str | Path = "outputs/hardened"

    def __post_init__(self) -> None:
        least = {name: (getattr(self, name), 1) for name in ("rounds", "epochs", "repeats", "batch_size")}
        check_least("Hardening", **least, clips_at_once=(self.clips_at_once, 1), seed=(self.seed, 0), lr=(self.lr, 0))
        if odd := [name for name in self.unseen if "/" in name or name in ("", ".", "..")]:
            raise ValueError(f"Hardening: the name of an unseen attack becomes that of a folder, got {odd[0]!r}.")
        if self.trained_with in self.unseen:
            raise ValueError(
                f"Hardening: an unseen attack is called {self.trained_with!r} as the one it is trained with."
            )
        self.attacks(0)

    @property
    def trained_with(self) -> str:
        """What the attack is called."""
        return as_attack(self.attack).params()["attack"]  # type: ignore[no-any-return]

    def attacks(self, seed: int) -> dict[str, Attack]:
        """The attacks, each with a seed: first the one that it is hardened with."""
        named = {self.trained_with: self.attack, **self.unseen}
        return {name: dataclasses.replace(as_attack(attack), seed=seed) for name, attack in named.items()}


def harden(settings: Hardening, *, progress: bool = True, overwrite: bool = False) -> dict[str, Any]:
    """Hardens a victim, and writes what came of it to a folder, which appears complete or not at
    all.

    Args:
        settings: what to do.
        progress: whether to show progress bars.
        overwrite: replace the folder of an earlier hardening, and drop what an unfinished one with
            other settings has left.

    Returns:
        By attack, what `vidmarl.audit.harden_figures.compare` gives: clean and robust accuracy and
        the size of the perturbations, before and after.

    Raises:
        SettingsError: the victim has other classes than the clips, or cannot be trained; or an
            unfinished hardening with other settings is there.
        ClipError: a clip stands in both the training and the test clips, or none can be used.
        FileExistsError: `settings.out` is there already and not empty.
        BlockingIOError: another process is at work there.
        VictimError, OSError: the victim cannot be asked, or the disk is full. What is done is kept.
    """
    train, test = (as_source(part) if isinstance(part, str) else part for part in (settings.train, settings.test))
    forbid_overlap(train, test, "train and test")
    victim = load_victim(settings.victim, settings.weights, spec=settings.spec or None, device=settings.device)
    _check(victim, train, test)
    with resumable_directory(settings.out, overwrite) as folder:
        job = _Job(folder, settings, victim, train, test, progress)
        job.begin(overwrite)
        try:
            figures = job.run()
        except BaseException as error:
            error.add_note(f"Kept in {readable(folder)}: what is done. The same command goes on from there.")
            raise
    if settings.audit is not None:
        audits = Path(settings.out) / AUDITS
        compare_audits(*(AuditResult.load(audits / when) for when in ("before", "after"))).save(audits)
    return figures


def _check(victim: Victim, *parts: ClipSource | Synthetic) -> None:
    network_of(victim)
    for part in parts:
        known = [name.casefold() for name in victim.labels or ()]
        if known != [name.casefold() for name in part.classes]:
            raise SettingsError(
                f"Hardening the victim {victim.name!r}: expected it to have the classes of the clips,"
                f" {list(part.classes)[:5]}..., got {(victim.labels or ['unnamed ones'])[:5]}... Train it on them"
                " first: vidmarl victims fit."
            )


@dataclasses.dataclass
class _Job:
    """A hardening in its folder.

    Attributes:
        folder: of the unfinished job.
        settings: what to do.
        victim: who is hardened; after each round it is another one.
        train: the clips that it is hardened on.
        test: the clips that it is tested on.
        progress: whether to show progress bars.
        identity: all that decides the results, as plain data.
    """

    folder: Path
    settings: Hardening
    victim: Victim
    train: ClipSource | Synthetic
    test: ClipSource | Synthetic
    progress: bool
    identity: dict[str, Any] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.identity = self._identity()

    @property
    def new(self) -> Path:
        """What becomes the folder of results."""
        return self.folder / "new"

    def begin(self, overwrite: bool) -> None:
        """Writes down what decides the results, or goes on where an earlier run has stopped.

        Raises:
            SettingsError: another job is there, without `overwrite`.
        """
        place, own = self.folder / "job.json", json.dumps(self.identity, indent=1) + "\n"
        if not place.exists() or place.read_text("utf-8") != own:
            if place.exists() and not overwrite:
                raise SettingsError(
                    f"Hardening: {readable(self.folder)} holds an unfinished one with other settings. Finish it by its"
                    " own command, choose another folder, or drop it (overwrite=True)."
                )
            for left in self.folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            write_atomically(place, own)
        self.new.mkdir(exist_ok=True)
        (self.new / "before").mkdir(exist_ok=True)

    def _identity(self) -> dict[str, Any]:
        own = self.settings
        numbers = (
            "rounds",
            "epochs",
            "repeats",
            "lr",
            "freeze",
            "mirror",
            "batch_size",
            "clips_at_once",
            "audit",
            "seed",
        )
        return {
            "vidmarl": __version__,
            "victim": self.victim.identity(),
            "attacks": {name: identity(attack) for name, attack in own.attacks(0).items()},
            "clips": [repr(self.train), repr(self.test)],
            **{name: getattr(own, name) for name in numbers},
        }

    def run(self) -> dict[str, Any]:
        """Does what is left to be done, and writes the results."""
        own = self.settings
        before = self._examined("before")
        for number in range(1, own.rounds + 1):
            self._round(number)
        self.victim.name = Path(own.out).resolve().name
        after = self._examined("after")
        figures = {name: compare(before[name], after[name]) for name in before}
        record = {
            **self.identity,
            "network": self._network(),
            "seed of the test": own.seed * SEEDS,
            "hardened with": own.trained_with,
            "figures": figures,
        }
        save_victim(self.new / FILE, self.victim, self._network(), record)
        write_atomically(self.new / FIGURES, table(figures).to_csv(index=False, float_format="%.4g"))
        write_atomically(self.new / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        write_atomically(self.new / REPORT, markdown(figures, own.trained_with) + "\n")
        return figures

    def _network(self) -> str:
        return network_name(self.settings.victim)

    def _examined(self, when: str) -> dict[str, AttackResult]:
        """The results of all attacks on the test clips, with the seed of the test; and an audit, if
        there is to be one."""
        dataset = LabelledClips(test=self.test, spec=self.victim.spec).dataset("test")
        results = {}
        for name, attack in self.settings.attacks(self.settings.seed * SEEDS).items():
            place = self.new / when / name
            if not place.exists():
                items = [dataset[i] for i in range(len(dataset))]
                self._attack(attack, items, self.test).save(place)
            results[name] = AttackResult.load(place)
        if self.settings.audit is not None:
            how: dict[str, Any] = {"seed": self.settings.seed, "progress": self.progress, **self.settings.audit}
            call(
                audit,
                "Auditing the victim",
                victim=self.victim,
                data=self.test,
                out=self.new / AUDITS / when,
                **how,
            )
        return results

    def _attack(self, attack: Attack, items: list[tuple[Tensor, int]], source: ClipSource | Synthetic) -> AttackResult:
        """An attack on clips of a source, away from their classes; its answers are kept while it
        runs."""
        labels = LabelledClips(test=source).labels("test")
        attack = dataclasses.replace(attack, clips_at_once=self.settings.clips_at_once, progress=self.progress)
        self.victim.to(self.settings.device)
        with journaled(self.victim, self.folder / "answers"):
            result = attack(self.victim, as_batch([clip for clip, _ in items]), labels[[i for _, i in items]])
        (self.folder / "answers").unlink()
        return result

    def _round(self, number: int) -> None:
        """Attacks the training clips, and trains on what comes of it; or finds this done."""
        place = self.folder / f"round-{number}"
        place.mkdir(exist_ok=True)
        if not (place / FILE).exists():
            if not (place / "adversarial.pt").exists():
                save_tensors(place / "adversarial.pt", self._found(number))
            self._train(number)
            save_victim(place / FILE, self.victim, self._network())
        state = load_tensors(place / FILE, f"Hardening, round {number}")["state_dict"]
        network_of(self.victim).load_state_dict(state)

    def _found(self, number: int) -> dict[str, Tensor]:
        """What the attack makes of the training clips: the smallest success, or what came nearest
        to one; a clip that the victim is wrong about stays as it is."""
        own = self.settings
        dataset = self._clean()
        items = [dataset[number, i] for i in range(len(dataset))]
        attack = own.attacks(own.seed * SEEDS + number)[own.trained_with]
        result = self._attack(attack, items, self.train)
        positions = torch.tensor([position for _, position in items])
        return {"adversarial": (result.adversarial * 255).round().to(torch.uint8), "positions": positions}

    def _clean(self) -> ClipDataset | DrawnClips:
        own = self.settings
        data = LabelledClips(train=self.train, spec=self.victim.spec, mirror=own.mirror, seed=own.seed)
        return data.dataset("train")

    def _train(self, number: int) -> None:
        """A round's training, on the adversarial clips of all rounds so far."""
        own = self.settings
        parts = [self.folder / f"round-{i}" / "adversarial.pt" for i in range(1, number + 1)]
        loaded = [load_tensors(part, "Hardening") for part in parts]
        data = MixedClips(
            self.train,
            torch.cat([part["adversarial"] for part in loaded]),
            torch.cat([part["positions"] for part in loaded]),
            spec=self.victim.spec,
            batch_size=own.batch_size,
            mirror=own.mirror,
            repeats=own.repeats,
            seed=own.seed * SEEDS + number,
        )
        training = VictimTraining(self.victim, freeze=own.freeze, lr=own.lr, seed=own.seed)
        with quiet(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*in eval mode at the start|.*across ranks is zero")
            trainer = L.Trainer(
                accelerator="cpu" if self.victim.device == torch.device("cpu") else "auto",
                devices=1,
                max_epochs=own.epochs,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=self.progress,
            )
            trainer.fit(training, datamodule=data)
        training.eval()
        self.victim = training.victim.to(own.device)
