"""Reading settings from YAML and overrides, the error messages, and the round trip through a dump."""

import itertools
import math
import time
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from video_llama.config import (
    Config,
    apply_overrides,
    dump_yaml,
    is_placeholder,
    load_config,
    load_yaml,
    parse_config,
    placeholders,
    require_filled,
)
from video_llama.errors import ConfigError


class Model(Config):
    num_query_token: int = 32
    """Queries per frame."""
    ckpt: Path | None = None
    frozen_video_qformer: bool = Field(default=False, alias="frozen_video_Qformer")


class Captions(Config):
    kind: Literal["captions"] = "captions"
    path: str = ""


class Dialogues(Config):
    kind: Literal["dialogues"] = "dialogues"
    turns: int = 1


class Run(Config):
    model: Model = Model()
    data: tuple[Captions | Dialogues, ...] = ()
    learning_rate: float = Field(default=1e-4, gt=0)
    steps: int
    note: str | None = None


@pytest.fixture
def write(tmp_path: Path):
    def write_text(text: str) -> Path:
        path = tmp_path / "x.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def nested_aliases(width: int, keys: str, line: str) -> str:
    """Return YAML in which each line refers ``width`` times to the line before it."""
    lines = [f"{keys[0]}: &{keys[0]} {{x: 1}}"]
    lines += [line.format(b=b, a=",".join([f"*{a}"] * width)) for a, b in itertools.pairwise(keys)]
    return "\n".join(lines)


HOSTILE = {
    "aliases that expand": (nested_aliases(9, "abcdefghijklm", "{b}: &{b} [{a}]"), "more than 20000 values"),
    "merges that expand": (nested_aliases(9, "abcdefghijklm", "{b}: &{b} {{<<: [{a}]}}"), "more than 20000 values"),
    "two aliases per line": (nested_aliases(2, "abcdefghijklmnopqrstu", "{b}: &{b} [{a}]"), "more than 20000 values"),
    "an alias of itself": ("note: &a [*a]", "the alias *a is inside its own value"),
    "a mapping of itself": ("model: &a\n  ckpt: *a", "the alias *a is inside its own value"),
    "an alias of itself in another anchor": ("a: &a [&b [*a]]", "the alias *a is inside its own value"),
    "deep lists": ("a: " + "[" * 100_000, "more than 50 lists and mappings are inside each other"),
    "deep dashes": ("- " * 100_000 + "x", "more than 50 lists and mappings are inside each other"),
    "deep mappings": ("".join(" " * i + "a:\n" for i in range(800)), "more than 50 lists and mappings"),
    "many keys": ("".join(f"k{i}: 1\n" for i in range(50_000)), "more than 20000 values"),
    "a long integer": ("steps: " + "1" * 100_000, "a number has 100000 characters, more than 100"),
    "a long integer of base 60": ("steps: 1" + ":59" * 50_000, "a number has 150001 characters"),
    "a long file": ("note: " + "x" * 2**21, "at most 1,048,576 are allowed"),
    "an empty integer": ("steps: !!int ''", "a value does not fit its tag"),
    "a wrong truth value": ("steps: !!bool x", "a value does not fit its tag"),
    "a wrong time": ("steps: !!timestamp x", "a value does not fit its tag"),
    "a control character": ("note: \x00", "special characters are not allowed"),
}


def refused(path: Path, overrides: tuple[str, ...] = ()) -> str:
    """Return the one-line error message, without the folder name."""
    with pytest.raises(ConfigError) as caught:
        load_config(Run, path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), path.name)


def test_a_file_and_its_defaults(write):
    run = load_config(Run, write("steps: 5\nmodel: {num_query_token: 8, frozen_video_Qformer: true}\n"))
    assert (run.steps, run.model.num_query_token, run.model.frozen_video_qformer) == (5, 8, True)
    assert run.learning_rate == 1e-4
    assert Model.model_fields["num_query_token"].description == "Queries per frame."


def test_frozen(write):
    run = load_config(Run, write("steps: 5"))
    with pytest.raises(ValidationError):
        run.steps = 6


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "1.e-4", "+1e-4", ".1e-3", "100e-6"])
def test_exponents_are_numbers(text, write):
    value = load_yaml(write(f"learning_rate: {text}"))["learning_rate"]
    assert isinstance(value, float)
    assert math.isclose(value, 1e-4, rel_tol=1e-12)


@pytest.mark.parametrize("text", ["e4", "1e", "1e-", "v1e4", "'1e-4'", "1e4x", "2023-01-01e4"])
def test_other_text_is_not_a_number(text, write):
    assert load_yaml(write(f"note: {text}"))["note"] == text.strip("'")


class TestRefused:
    def test_unknown_key_with_a_suggestion(self, write):
        line = refused(write("steps: 1\nmodel: {num_query_tokn: 4}"))
        assert line == "x.yaml: model.num_query_tokn: unknown key. Did you mean num_query_token?"

    def test_unknown_key_suggests_the_name_used_in_files(self, write):
        line = refused(write("steps: 1\nmodel: {frozen_video_qformer: true}"))
        assert line == "x.yaml: model.frozen_video_qformer: unknown key. Did you mean frozen_video_Qformer?"

    def test_unknown_key_without_a_suggestion(self, write):
        assert "x.yaml: zzz: unknown key. Known keys: data, learning_rate, model, note, steps." in refused(
            write("zzz: 1")
        )

    def test_unknown_key_in_a_union(self, write):
        line = refused(write("steps: 1\ndata: [{kind: dialogues, turn: 3}]"))
        assert "x.yaml: data.0.turn: unknown key. Did you mean turns?" in line
        assert "Captions" not in line

    def test_the_error_names_the_override(self, write):
        line = refused(write("steps: 1"), ("model.num_query_tokn=4",))
        assert line == "override model.num_query_tokn=4: unknown key. Did you mean num_query_token?"

    def test_section_set_by_an_override(self, write):
        line = refused(write("steps: 1"), ("model={num_query_tokn: 4}",))
        assert line == (
            "override model={num_query_tokn: 4}: model.num_query_tokn: unknown key. Did you mean num_query_token?"
        )

    def test_missing(self, write):
        assert refused(write("")) == "x.yaml: steps: missing. This key has no default; set it."

    def test_wrong_type_and_range(self, write):
        line = refused(write("steps: many\nlearning_rate: -1"))
        assert "x.yaml: learning_rate: should be greater than 0 (it is -1)" in line
        assert "x.yaml: steps: should be a valid integer" in line
        assert "(it is 'many')" in line

    def test_a_bool_is_not_a_number(self, write):
        assert refused(write("steps: yes")) == "x.yaml: steps: should be a number (it is True)."

    def test_scalar_for_a_section(self, write):
        assert "x.yaml: model: should be" in refused(write("steps: 1\nmodel: 3"))

    def test_two_scalars_on_a_line(self, write):
        """The reference's published recipes contain such lines, which are not valid YAML."""
        line = refused(write('steps: 1\nnote: "a" or "b"\n'))
        assert line.startswith("x.yaml:2: not valid YAML: ")
        assert """'note: "a" or "b"'""" in line

    def test_duplicate_key(self, write):
        line = refused(write("steps: 1\nmodel:\n  ckpt: a\n  ckpt: b\n"))
        assert line == "x.yaml:4: not valid YAML: duplicate key ckpt: 'ckpt: b'."

    @pytest.mark.parametrize(
        "text", ["a: [1", "\ta: 1", "a: !!python/object:os.system {}", "a: *x", "? {a: 1}\n: 2", "%", "a: 2023-13-45"]
    )
    def test_other_bad_yaml(self, text, write):
        assert "not valid YAML" in refused(write(text))

    @pytest.mark.parametrize("name", HOSTILE)
    def test_hostile_yaml_is_refused_in_bounded_time(self, name, write):
        text, message = HOSTILE[name]
        start = time.perf_counter()
        line = refused(write(text))
        assert message in line
        assert len(line) < 600
        assert time.perf_counter() - start < 20  # seconds; without the limits, minutes or no end

    def test_hostile_overrides_are_refused(self, write):
        assert "the alias *a is inside its own value" in refused(write("steps: 1"), ("note=&a [*a]",))
        assert "inside each other" in refused(write("steps: 1"), ("note=" + "[" * 2000,))

    def test_many_unknown_keys_are_counted(self, write):
        line = refused(write("steps: 1\n" + "".join(f"k{i}: 1\n" for i in range(5000))))
        assert line.count("unknown key") == 10
        assert line.endswith("And 4990 more invalid keys.")

    def test_long_values_are_shortened(self, write):
        assert len(refused(write(f"steps: {'x' * 100_000}"))) < 400

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    def test_a_byte_order_mark_is_skipped(self, encoding, write):
        path = write("")
        path.write_text("steps: 5\nnote: café", encoding=encoding)
        assert load_config(Run, path).note == "café"

    def test_aliases_and_merges_of_ordinary_files(self, write):
        text = "model: &m {num_query_token: 8}\nsteps: &s 5\ndata: [{turns: *s}]\n"
        assert load_yaml(write(text))["data"] == [{"turns": 5}]
        assert load_yaml(write(f"{text}more: {{<<: *m, ckpt: x}}"))["more"] == {"num_query_token": 8, "ckpt": "x"}

    def test_list_file(self, write):
        assert refused(write("- 1")) == "x.yaml:1: contains a list. Write 'key: value' lines."

    def test_no_such_file(self, write):
        path = write("steps: 1")
        with pytest.raises(ConfigError, match=r"y\.yaml: no such file\. Did you mean .*x\.yaml\?"):
            load_yaml(path.with_name("y.yaml"))
        with pytest.raises(ConfigError, match="does not exist either"):
            load_yaml(path.parent / "none" / "x.yaml")
        with pytest.raises(ConfigError, match=r"nothing: no such file\. Check the path\.$"):
            load_yaml(path.with_name("nothing"))

    def test_folder_and_binary(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot read the file as text"):
            load_yaml(tmp_path)
        (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ConfigError, match="cannot read the file as text"):
            load_yaml(tmp_path / "b.yaml")


class TestOverrides:
    def test_values_are_yaml(self):
        overrides = ["a.b=1e-4", "a.c=[1, x]", "d=true", "e=", "f=a=b"]
        assert apply_overrides({"a": {"b": 2, "z": 0}}, overrides) == {
            "a": {"b": 1e-4, "c": [1, "x"], "z": 0},
            "d": True,
            "e": None,
            "f": "a=b",
        }

    def test_the_last_override_wins_and_the_input_is_not_modified(self):
        data = {"a": {"b": 1}}
        assert apply_overrides(data, ["a.b=2", "a.b=3"]) == {"a": {"b": 3}}
        assert data == {"a": {"b": 1}}

    def test_lists_are_numbered(self):
        assert apply_overrides({"a": [{"b": 1}, {"b": 2}]}, ["a.1.b=5"]) == {"a": [{"b": 1}, {"b": 5}]}
        with pytest.raises(ConfigError, match="a is a list of 1; use a number from 0 in place of 1"):
            apply_overrides({"a": [0]}, ["a.1=5"])

    def test_an_empty_section_is_made(self):
        assert apply_overrides({"a": None}, ["a.b.c=1"]) == {"a": {"b": {"c": 1}}}

    def test_an_override_changes_one_of_several_aliases(self, write):
        data = load_yaml(write("a: &x {n: 1}\nb: *x\nc: {<<: *x, m: 2}"))
        assert apply_overrides(data, ["a.n=5"]) == {"a": {"n": 5}, "b": {"n": 1}, "c": {"n": 1, "m": 2}}

    @pytest.mark.parametrize("text", ["a", "=1", "a..b=1", ".a=1", ""])
    def test_not_an_override(self, text):
        with pytest.raises(ConfigError, match=r"must have the form section\.key=value"):
            apply_overrides({}, [text])

    def test_through_a_value(self):
        with pytest.raises(ConfigError, match="a is 3, not a section"):
            apply_overrides({"a": 3}, ["a.b=1"])

    def test_bad_yaml_value(self):
        with pytest.raises(ConfigError, match="override a:1: not valid YAML"):
            apply_overrides({}, ["a=[1"])


class TestPlaceholders:
    @pytest.mark.parametrize(
        "text", ["path/eva.pth", "/path/to/x", "your/data", "./path/x", "<your path>", "/data/<name>"]
    )
    def test_are(self, text):
        assert is_placeholder(text)

    @pytest.mark.parametrize(
        "text", ["ckpt/llama-2-7b-chat-hf", "paths/x", "mypath/x", "/data/path/x", "", "path", "yours/x"]
    )
    def test_are_not(self, text):
        assert not is_placeholder(text)

    def test_not_where_the_file_exists(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert is_placeholder("path/x")
        (tmp_path / "path").mkdir()
        (tmp_path / "path" / "x").touch()
        assert not is_placeholder("path/x")

    def test_found_and_refused(self):
        data = {"steps": 1, "model": {"ckpt": "path/to/a.pth"}, "data": [{"path": "your/data"}]}
        run = parse_config(Run, data, source="x.yaml")
        assert placeholders(run) == {"model.ckpt": "path/to/a.pth", "data.0.path": "your/data"}
        with pytest.raises(ConfigError, match=r"x\.yaml: model\.ckpt \(path/to/a\.pth\) is still a placeholder\. Set"):
            require_filled(run, source="x.yaml", only=["model.ckpt"])
        with pytest.raises(ConfigError, match="are still placeholders"):
            require_filled(run, source="x.yaml")
        require_filled(run, source="x.yaml", only=["note"])


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), max_size=12)
awkward = st.sampled_from(
    ["1e-4", "-3E5", ".5e1", "yes", "null", "~", "1:30", "0x1", "", " ", "#", "a: b", "- a", "=", "<<"]
)
runs = st.builds(
    Run,
    steps=st.integers(),
    learning_rate=st.floats(min_value=1e-300, max_value=1e300),
    note=st.none() | texts | awkward,
    model=st.builds(Model, num_query_token=st.integers(0, 99), frozen_video_Qformer=st.booleans()),
    data=st.lists(
        st.builds(Captions, path=texts | awkward) | st.builds(Dialogues, turns=st.integers(1, 5)), max_size=3
    ),
)


@given(runs)
def test_a_dump_reads_back_the_same(tmp_path_factory, run):
    path = tmp_path_factory.getbasetemp() / "dump.yaml"
    path.write_text(dump_yaml(run), encoding="utf-8")
    assert load_config(Run, path) == run


def test_a_dump_holds_the_defaults():
    text = dump_yaml(Run(steps=3))
    assert "num_query_token: 32" in text
    assert "frozen_video_Qformer: false" in text
