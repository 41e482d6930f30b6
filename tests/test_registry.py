"""Names become objects in one place: whatever names one is understood, and a misspelling is
answered with what was meant."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import vidmarl
from vidmarl import attacks, distortions
from vidmarl.attacks import ATTACKS
from vidmarl.distortions import DISTORTIONS
from vidmarl.errors import SettingsError, UnknownNameError, VidmarlError
from vidmarl.registry import Registry, call, explain_settings, object_at, settings_of

REGISTRIES: list[Registry[Any]] = [ATTACKS, DISTORTIONS]
each_registry = pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)


@st.composite
def misspelt(draw: st.DrawFn, names: list[str]) -> tuple[str, str]:
    """A name, and the same with one letter left out, put in, replaced, or in the place of the
    next."""
    name = draw(st.sampled_from(names))
    place = draw(st.integers(0, len(name) - 1))
    letter = draw(st.sampled_from("abcdefghijklmnopqrstuvwxyzABCXYZ0189_-. "))
    edits = (
        name[:place] + name[place + 1 :],
        name[:place] + letter + name[place:],
        name[:place] + letter + name[place + 1 :],
        name[:place] + name[place + 1 : place + 2] + name[place] + name[place + 2 :],
    )
    wrong = draw(st.sampled_from(edits))
    assume(wrong not in names)
    return name, wrong


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.thorough
@each_registry
@given(data=st.data())
def test_a_misspelt_name_is_answered_with_near_ones(registry: Registry[Any], data: st.DataObject) -> None:
    name, wrong = data.draw(misspelt([*registry.names(), *registry.classes()]))
    with pytest.raises(UnknownNameError) as caught:
        registry.make(wrong)
    assert repr(wrong) in str(caught.value)
    assert registry.kind in str(caught.value)
    if len(name) > 4:  # of a short name, one letter is a large part
        assert "did you mean" in str(caught.value)
        offered = str(caught.value).partition("did you mean ")[2].rstrip("?").split(" or ")
        assert {name.replace("_", "").lower()} & {near.replace("_", "").lower() for near in offered}


@pytest.mark.thorough
@each_registry
@given(name=st.text(max_size=12) | st.from_regex(r"[a-z.]{1,8}\.[a-z._]{1,8}", fullmatch=True))
def test_any_other_text_is_an_unknown_name_or_no_such_thing(registry: Registry[Any], name: str) -> None:
    assume(name not in [*registry.names(), *registry.classes()])
    with pytest.raises((UnknownNameError, SettingsError)):
        registry.make(name)


@each_registry
def test_a_module_that_is_not_there_is_named(registry: Registry[Any]) -> None:
    with pytest.raises(UnknownNameError, match="there is no module 'no_such_module', here or installed"):
        registry.make("no_such_module.Thing")


@pytest.mark.thorough
@each_registry
def test_every_name_leads_to_the_same_class(registry: Registry[Any]) -> None:
    for name, kind in zip(registry.names(), registry.classes().values(), strict=True):
        for spelling in (name, kind.__name__, f"{kind.__module__}.{kind.__name__}"):
            assert registry.find(spelling) is kind
        assert kind.__module__ == f"{registry.package}.{name}"
        assert getattr(sys.modules[registry.package], kind.__name__) is kind


@each_registry
def test_the_package_lists_its_classes_and_type_checkers_see_no_others(registry: Registry[Any]) -> None:
    package = sys.modules[registry.package]
    assert registry.classes().keys() <= set(dir(package))
    assert package.__file__ is not None
    typed = re.findall(r"^    from \S+ import (\w+) as \1$", Path(package.__file__).read_text("utf-8"), re.MULTILINE)
    assert typed
    assert set(typed) <= registry.classes().keys()


def test_names_of_the_packages_are_attribute_errors_where_they_are_none() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'GrowAndReduc'.*did you mean GrowAndReduce"):
        _ = attacks.GrowAndReduc  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = distortions.nothing  # type: ignore[attr-defined]
    assert not hasattr(attacks, "__wrapped__")


# --- a package of one's own ----------------------------------------------------------------------


class Shape:
    """What the files of the package below define."""

    def __init__(self, size: float = 1.0) -> None:
        self.size = size


SHAPES = {
    "__init__.py": "__all__ = []",
    "shared.py": "from test_registry import Shape\n\nclass Shared(Shape): pass",
    "red_square.py": "from test_registry import Shape\n\nclass _Helper(Shape): pass\n\nclass RedSquare(_Helper): pass",
    "circle.py": "from test_registry import Shape\n\nclass CircleShape(Shape): pass",
    "odd.py": "from test_registry import Shape\n\nclass Triangle(Shape): pass",
    "tools/__init__.py": "",
}


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[Shape]]:
    monkeypatch.setitem(sys.modules, "test_registry", sys.modules[__name__])
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in SHAPES.items():
        path = tmp_path / "shapes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    yield Registry("shape", Shape, "shapes", shared=("shared",))
    for name in [name for name in sys.modules if name.partition(".")[0] == "shapes"]:
        del sys.modules[name]


def test_files_are_found_and_imported_only_when_asked_for(shapes: Registry[Shape], tmp_path: Path) -> None:
    assert shapes.names() == ["circle", "odd", "red_square"]
    assert not {"shapes.circle", "shapes.odd", "shapes.red_square"} & sys.modules.keys()
    assert type(shapes.make("red_square")).__name__ == "RedSquare"
    assert type(shapes.make("CircleShape")).__name__ == "CircleShape"
    assert "shapes.odd" not in sys.modules
    assert type(shapes.make("Triangle", size=2.0)).__module__ == "shapes.odd"
    (tmp_path / "shapes" / "oval.py").write_text("from test_registry import Shape\n\nclass Oval(Shape): pass", "utf-8")
    assert shapes.make("oval", size=3).size == 3
    with pytest.raises(UnknownNameError):
        shapes.make("shared")


@pytest.mark.parametrize("text", ["x = 1", SHAPES["odd.py"] + "\n\nclass Other(Shape): pass"])
def test_a_file_defines_exactly_one(shapes: Registry[Shape], tmp_path: Path, text: str) -> None:
    (tmp_path / "shapes" / "new.py").write_text(text, "utf-8")
    with pytest.raises(TypeError, match=r"new\.py: expected one public subclass of Shape"):
        shapes.make("new")


def test_a_module_that_lacks_another_says_so_itself(shapes: Registry[Shape], tmp_path: Path) -> None:
    (tmp_path / "shapes" / "broken.py").write_text("import no_such_module_at_all", "utf-8")
    for name in ("broken", "shapes.broken.Thing"):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
            shapes.make(name)


def test_objects_classes_and_descriptions_are_understood(shapes: Registry[Shape]) -> None:
    made = Shape()
    assert shapes.make(made) is made
    assert shapes.make(Shape, size=2).size == 2
    assert shapes.make({"class_path": "odd", "init_args": {"size": 4}}, size=5).size == 5
    assert shapes.make({"class_path": "shapes.odd.Triangle", "init_args": None}).size == 1.0


@pytest.mark.parametrize("thing", [None, 3, int, len, {"class_path": "odd", "args": {}}, {"class_path": 3}, {}])
def test_what_is_none_is_refused(shapes: Registry[Shape], thing: Any) -> None:
    with pytest.raises(SettingsError, match=r"Making a shape: expected .* got"):
        shapes.make(thing)


def test_what_is_made_already_takes_no_settings(shapes: Registry[Shape]) -> None:
    with pytest.raises(SettingsError, match=r"Shape is made already, so it cannot get \['size'\]"):
        shapes.make(Shape(), size=3)


def test_functions_are_converted_where_they_are_welcome(shapes: Registry[Shape]) -> None:
    def convert(function: Callable[..., float], size: float = 2.0) -> Shape:
        return Shape(function(size))

    registry = Registry("shape", Shape, "shapes", convert=convert)
    assert registry.make(lambda size: 3 * size).size == 6
    assert registry.make("math.sqrt", size=9).size == 3
    with pytest.raises(SettingsError, match="a function"):
        registry.make("fractions.Fraction")  # a class, but no shape


def test_a_path_may_lead_into_a_class_and_its_end_is_corrected() -> None:
    assert object_at("vidmarl.victims.victim.Victim.check", "method") is vidmarl.Victim.check
    with pytest.raises(UnknownNameError, match=r"did you mean vidmarl\.victims\.victim\.Victim"):
        object_at("vidmarl.victims.victim.Victm", "victim")
    with pytest.raises(UnknownNameError, match="did you mean square_tubes"):
        object_at("square.tubes", "attack", attacks.list_attacks)


# --- settings ------------------------------------------------------------------------------------

CLASSES = [*ATTACKS.classes().values(), *DISTORTIONS.classes().values(), vidmarl.ClipSpec, vidmarl.Victim]


@pytest.mark.thorough
@given(data=st.data())
def test_a_misspelt_setting_names_the_class_and_the_nearest_setting(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([kind for kind in CLASSES if any(len(name) > 2 for name in settings_of(kind))]))
    name, wrong = data.draw(misspelt([name for name in settings_of(kind) if len(name) > 2]))
    with pytest.raises(SettingsError) as caught:
        kind(**{wrong: 1})
    assert str(caught.value).startswith(f"Making {kind.__name__}: there is no setting {wrong!r}; did you mean ")
    assert name in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, VidmarlError)


@explain_settings
@dataclasses.dataclass(frozen=True)
class Trip:
    """An example.

    Attributes:
        where: to.
        days: how many.
    """

    where: str
    days: int = 7


class LongTrip(Trip):
    """An example that passes settings on."""

    def __init__(self, stops: int = 3, /, **others: Any) -> None:
        super().__init__(**others)
        object.__setattr__(self, "stops", stops)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Trip(), "Making Trip: expected a value for 'where', got none."),
        (lambda: Trip("a", 1, 2, 3), "expected at most 2 settings without a name (where, days), got 4"),
        (lambda: Trip("a", where="b"), "got 'where' twice, by place and by name"),
        (lambda: Trip("a", dayz=3, whom=1), "no setting 'dayz'; did you mean days? there is no setting 'whom'"),
        (lambda: Trip("a", xyzzy=3), "no setting 'xyzzy'; known are: days, where."),
        (lambda: LongTrip(where="a", dayz=3), "Making LongTrip: there is no setting 'dayz'; did you mean days?"),
        (lambda: call(Trip, "Going", dayz=3), "Going: there is no setting 'dayz'; did you mean days?"),
        (lambda: call(len, "Counting"), "Counting: missing a required argument: 'obj'."),
        (lambda: call("len", "Counting"), "Counting: expected a class or a function, got 'len'."),
        (lambda: dataclasses.replace(Trip("a"), dayz=3), "did you mean days?"),
    ],
)
def test_settings_that_do_not_fit_are_told_in_words(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make()
    assert message in str(caught.value)


def test_a_class_that_explains_its_settings_looks_as_before() -> None:
    assert str(inspect.signature(Trip)) == "(where: 'str', days: 'int' = 7) -> None"
    assert repr(Trip("Rome")) == "Trip(where='Rome', days=7)"
    assert list(settings_of(LongTrip)) == ["where", "days"]
    assert explain_settings(Trip) is Trip  # and twice is as good as once
    assert "budget: 'int' = 200" in str(inspect.signature(vidmarl.GrowAndReduce))


def test_a_type_error_within_the_class_stays_what_it_is() -> None:
    @explain_settings
    class Odd:
        def __init__(self, size: int) -> None:
            self.size = size + "1"  # type: ignore[operator]

    with pytest.raises(TypeError, match="unsupported operand") as caught:
        Odd(size=1)
    assert not isinstance(caught.value, SettingsError)


# --- type checkers -------------------------------------------------------------------------------

RIGHT = """
import torch
import vidmarl
from vidmarl.data import load_clips

victim = vidmarl.load_victim("demo", spec={"frames": 4}, device="cpu")
result = vidmarl.GrowAndReduce("dead_pixels", budget=100)(victim, torch.rand(1, 3, 8, 32, 32))
print(result.queries, vidmarl.attacks.VBAD, vidmarl.distortions.JPEG(quality=3), vidmarl.RLAttack("gaussian_noise"))
print(load_clips(["clip.mp4"], victim).shape, vidmarl.list_agents(), vidmarl.__version__)
"""
WRONG = {
    "vidmarl.GrowAndReduce(budgt=3)": "Unexpected keyword argument",
    "vidmarl.attacks.GrowAndReduc": "has no attribute",
    "vidmarl.load_victm('demo')": "has no attribute",
    "vidmarl.data.ClipDat": "has no attribute",
}


@pytest.mark.slow
def test_type_checkers_know_the_lazy_names(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    file = tmp_path / "user.py"
    file.write_text(RIGHT + "\nimport vidmarl.data\n" + "\n".join(WRONG), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--follow-imports=silent", str(file)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(vidmarl.__file__).parents[1],
    )
    first = len(RIGHT.splitlines()) + 3
    found = [line for line in done.stdout.splitlines() if "error:" in line]
    assert [int(line.split(":")[1]) for line in found] == list(range(first, first + len(WRONG))), done.stdout
    for line, message in zip(found, WRONG.values(), strict=True):
        assert message in line
