"""Configs load as they were saved, and errors in them are reported in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field

from medvit.config import RENAMED, Config, keys, read_yaml, unknown_name
from medvit.errors import ConfigError
from medvit.registry import Chosen


class Inner(Config):
    """Options of a part."""

    rate: float = 0.1
    """Speed."""
    sizes: tuple[int, ...] = (1, 2)
    """Sizes."""
    names: tuple[str, ...] = ()
    """Owners."""
    modes: Annotated[tuple[Annotated[Literal["a", "b"], Field()], ...], Field(max_length=2)] = ()
    """Modes."""


class Options(Config):
    """Options of a whole."""

    folder: Path
    """Output folder."""
    mode: Literal["fast", "slow"] = "fast"
    """Mode."""
    count: int | None = Field(None, ge=1)
    """Number; unset means all."""
    inner: Inner = Field(default_factory=Inner)
    source: Path | None = Field(None, json_schema_extra={"private": True})
    """Source."""
    peft: Annotated[Config, Chosen("medvit.peft", default="lora")] = Field(
        default={"name": "lora"}, validate_default=True
    )
    """Adaptation."""


def load(*overrides: str) -> Options:
    return Options.load(None, ["folder=out", *overrides])


def test_a_saved_config_runs_again_unchanged(tmp_path: Path) -> None:
    config = load("mode=slow", "inner.rate=3", "inner.sizes=[4, 5]", "source=in", "peft.rank=2")
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    again = Options.load(tmp_path / "config.yaml")
    assert again == config
    assert again.to_yaml() == config.to_yaml()


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("1.0e-4", 1e-4), ("3", 3.0), ("'0.5'", 0.5)])
def test_numbers_are_read_however_they_are_written(text: str, value: float) -> None:
    assert load(f"inner.rate={text}").inner.rate == value


def test_one_name_is_a_list_of_one_and_one_number_is_not() -> None:
    assert load("inner.names=CT", "inner.modes=a").inner == Inner(names=("CT",), modes=("a",))
    assert load("inner.names=[]").inner.names == load("inner.names=").inner.names == ()
    for wrong in ("inner.sizes=3", "inner.modes=c", "inner.names={a: b}", "inner.names=a,b"):
        with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
            load(wrong)


def test_key_value_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("folder: a\ninner: {rate: 1, sizes: [7]}\n", encoding="utf-8")
    config = Options.load(tmp_path / "a.yaml", ["inner.rate=2"])
    assert (config.inner.rate, config.inner.sizes) == (2.0, (7,))


def test_an_equals_sign_may_be_part_of_a_value() -> None:
    assert load("source=a=b").source == Path("a=b")


def test_none_is_written_null() -> None:
    assert load("count=null").count is None


@pytest.mark.parametrize("text", ["2024-01-31", "2024", "007", "1e5", "yes", "1.10", "null-1"])
def test_what_looks_like_a_date_or_a_number_is_the_name_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(f"folder: {text}\nsource: {text}\n", encoding="utf-8")
    assert Options.load(tmp_path / "a.yaml").folder == Path(text)
    assert load(f"source={text}").source == Path(text)


def test_numbers_and_booleans_are_what_their_option_makes_of_the_text() -> None:
    config = load("count=3", "inner.rate=1e-4", "inner.sizes=[4, 5]")
    assert (config.count, config.inner.rate, config.inner.sizes) == (3, 1e-4, (4, 5))


def test_a_name_alone_is_short_for_a_choice() -> None:
    assert load("peft=full").peft.tree()["name"] == "full"
    assert load("peft=lora", "peft.rank=3").peft.tree()["rank"] == 3


@pytest.mark.parametrize("words", [("peft.rank=3", "peft=dora"), ("peft=dora", "peft.rank=3")])
def test_a_choice_does_not_drop_its_options_in_whatever_order_both_are_given(words: tuple[str, str]) -> None:
    tree = load(*words).peft.tree()
    assert (tree["name"], tree["rank"]) == ("dora", 3)
    assert load("inner.rate=3", "inner={sizes: [4]}").inner == Inner(rate=3, sizes=(4,))


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().mode = "slow"  # type: ignore[misc]


def test_what_may_name_a_patient_is_left_out_of_the_public_tree() -> None:
    assert "source" not in load("source=Doe").tree(private=False)
    assert "Doe" not in load("source=Doe").to_yaml(private=False)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("mod=slow", "unknown key 'mod'; did you mean 'mode'?"),
        ("inner.rat=1", "unknown key 'inner.rat'; did you mean 'inner.rate'?"),
        ("iner.rate=1", "unknown key 'iner'; did you mean 'inner'?"),
        ("mode=slwo", "mode: input should be 'fast' or 'slow' (found 'slwo')"),
        ("count=0", "count: input should be greater than or equal to 1 (found 0)"),
        ("inner.rate=quick", "inner.rate: input should be a valid number"),
        ("peft=lorra", "peft: no peft is named 'lorra'; did you mean 'lora'?"),
        ("peft.rnk=2", "unknown key 'peft.rnk'; did you mean 'rank'?"),
    ],
)
def test_a_wrong_key_or_value_is_told(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(override)
    assert str(caught.value).startswith("the arguments: ")
    assert sentence in str(caught.value)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"folder is missing; give folder=.*unknown key 'mod'.*"):
        Options.load(None, ["mod=slow"])


def test_a_missing_key_of_a_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("mode: slow\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a\.yaml: folder is missing; give folder="):
        Options.load(tmp_path / "a.yaml")


@pytest.mark.parametrize("word", ["folder", "=x"])
def test_a_word_that_is_no_key_value_is_told(word: str) -> None:
    with pytest.raises(ConfigError, match="expected key=value"):
        load(word)


def test_a_key_below_a_single_value_is_told() -> None:
    with pytest.raises(ConfigError, match=r"count\.low: count is a single option, not a group of options"):
        load("count=3", "count.low=1")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a: [1", "is not YAML"), ("- 1\n- 2\n", "is a list; expected keys and values"), ("\xff", "is not YAML")],
)
def test_a_file_that_is_no_config_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=sentence):
        read_yaml(tmp_path / "a.yaml")


def test_an_empty_file_is_an_empty_config(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# nothing\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {}


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file at"):
        read_yaml(tmp_path / "absent.yaml")


def test_keys_tell_name_type_default_and_meaning() -> None:
    shown = {key.name: key for key in keys(Options)}
    assert (shown["folder"].type, shown["folder"].default, shown["folder"].help) == (
        "Path",
        "required",
        "Output folder.",
    )
    assert (shown["mode"].type, shown["mode"].default) == ("fast or slow", "fast")
    assert (shown["count"].type, shown["count"].default) == ("int or unset", "unset")
    assert (shown["inner.rate"].default, shown["inner.rate"].help) == ("0.1", "Speed.")
    assert shown["peft.name"].default == "lora"
    assert "peft.rank" in shown


def test_an_unknown_name_is_answered_with_the_list() -> None:
    assert unknown_name("head", "lienar", ["dense", "linear"]).endswith(
        "did you mean 'linear'? known are dense, linear"
    )


class Renamed(Config):
    """Options that had other names."""

    RENAMED: ClassVar[dict[str, str]] = {"rounds": "epochs"}

    epochs: int = 1
    """Number."""
    balance: Literal["loss", "off"] = "loss"
    """Or off."""
    checkpoint: Path | None = None
    """Source."""
    name: str = ""
    """Possibly empty."""


def test_earlier_names_are_read_with_a_warning_and_those_in_artifacts_without(caplog: pytest.LogCaptureFixture) -> None:
    tree = {"rounds": "3", "balance": "none", "checkpoint": "none", "name": "none"}
    now = Renamed(epochs=3, balance="off", checkpoint=None, name="none")
    assert Renamed.parse_saved(tree, source="model.yaml") == now
    assert not caplog.records
    assert Renamed.parse(tree) == now
    messages = [record.getMessage() for record in caplog.records]
    assert [sentence.partition(";")[0] for sentence in messages] == [
        "rounds is now called epochs",
        "balance=none is now called balance=off",
        "checkpoint=none is now called checkpoint=null",
    ]
    with pytest.raises(ConfigError, match="rounds is now called epochs, and both are given"):
        Renamed.parse({"rounds": 1, "epochs": 2})


def test_null_is_unset_everywhere() -> None:
    assert Renamed.load(None, ["epochs=null", "balance=null", "checkpoint=null", "name=null"]) == Renamed()


class Outer(Config):
    """A group that contains a former top-level group."""

    part: Inner = Field(default_factory=Inner)


class Grouping(Config):
    """Options of which some are in a group now."""

    RENAMED: ClassVar[dict[str, str]] = {"rate": "inner.rate", "label_names": "inner.names", "part": "outer.part"}

    inner: Inner = Field(default_factory=Inner)
    outer: Outer = Field(default_factory=Outer)


def test_earlier_names_of_options_in_groups_are_read_beside_present_ones(tmp_path: Path) -> None:
    now = Grouping(inner=Inner(rate=2, sizes=(7,), names=("CT",)), outer=Outer(part=Inner(rate=3, modes=("a",))))
    (tmp_path / "old.yaml").write_text("rate: 2\ninner: {sizes: [7]}\npart: {modes: [a]}\n", encoding="utf-8")
    assert Grouping.load(tmp_path / "old.yaml", ["label_names=CT", "outer.part.rate=3"]) == now
    assert Grouping.load(tmp_path / "old.yaml", ["inner.names=CT", "part.rate=3"]) == now
    mixed = {"rate": 2, "inner": Inner(sizes=(7,), names=("CT",)), "part": now.outer.part, "outer": None}
    assert Grouping.parse(mixed) == Grouping.parse(now.tree()) == now


def test_earlier_names_in_groups_are_warned_of_unless_medvit_saved_them(caplog: pytest.LogCaptureFixture) -> None:
    assert Grouping.parse_saved({"rate": 2, "part": {"rate": 3}}, source="config.yaml").inner.rate == 2
    assert not caplog.records
    Grouping.parse({"rate": 2, "part": {"rate": 3}})
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "rate is now called inner.rate",
        "part is now called outer.part",
    ]


@pytest.mark.parametrize(
    "tree",
    [
        {"rate": 1, "inner": {"rate": 1}},
        {"rate": 1, "inner": Inner(rate=1)},
        {"rate": 1, "inner": "fast"},
        {"part": {"rate": 1, "names": ["a"]}, "outer": {"part": {"sizes": [3], "rate": 1}}},
        {"part": Inner(rate=1), "outer": {"part": "fast"}},
    ],
)
def test_an_option_under_both_names_is_refused(tree: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"is now called (inner\.rate|outer\.part), and both are given; remove"):
        Grouping.parse(tree)


def test_the_list_of_options_has_earlier_names_and_those_below_them() -> None:
    earlier = {key.name: key.default for key in keys(Grouping, every_variant=True) if key.type == RENAMED}
    parts = {f"part.{name}": f"outer.part.{name}" for name in Inner.model_fields}
    assert earlier == {**Grouping.RENAMED, **parts}
