"""What is named as module:name: found, checked and told apart; what is wrong with it is said at its location."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.base.extensions import ExtensionError, is_own, load, sources, use_folder
from nas.config.document import ConfigError
from nas.config.reading import load_experiment
from nas.data.datasets import load_dataset
from nas.data.images.image_cache import DataError
from nas.networks.model import build_model
from nas.networks.own import check_own
from nas.search.samplers import check_sampler
from nas.space import specs
from nas.space.genotype import Genotype, short_name

OPERATOR = """\
from dataclasses import dataclass
from torch import nn


class Mix(nn.Module):
    @dataclass(frozen=True)
    class Options:
        size: int = 3
        taps: tuple[int, ...] = (1, 2)
        note: str | None = None

        def __post_init__(self):
            if self.size % 2 == 0:
                raise ValueError(f"size = {self.size!r}: allowed is an odd number")

    def __init__(self, in_channels, out_channels, stride, size, taps, note):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, size, stride, size // 2)

    def forward(self, x):
        return self.conv(x)
"""
EXPERIMENT = """\
space:
  stem: {kind: small, width: 8}
  operators:
    conv3: {op: conv}
    mix: {op: MODULE:Mix}
  stages:
    - {block: basic, depth: [1, 2], width: [8, 16]}
objectives: [{name: top1}]
search: {sampler: random, num_trials: 2}
proxy: {dataset: digits, epochs: 1, resolution: 8}
"""


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """What a test imports and enters is not there for the next one."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for registry in (specs.OPERATORS, specs.BLOCKS):
        for name in list(filter(is_own, registry)):
            del registry[name]
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and "pytest-" in str(sys.modules[name].__file__):
            del sys.modules[name]


def written(folder: Path, name: str, code: str = OPERATOR) -> Path:
    """A module and an experiment that names it."""
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    (folder / "it.yaml").write_text(EXPERIMENT.replace("MODULE", name), encoding="utf-8")
    return folder / "it.yaml"


def genotype(operator: str) -> Genotype:
    return Genotype.from_json(
        f'{{"stem": {{"kind": "small", "width": 8}}, '
        f'"stages": [[{{"kind": "basic", "width": 8, "operator": {operator}}}]]}}'
    )


def test_a_network_is_the_same_whether_its_operator_is_loaded_or_not(tmp_path):
    written(tmp_path, "mix_same")
    text = '{"op": "mix_same:Mix", "size": 5, "taps": [3, 4]}'
    before = genotype(text)
    use_folder(tmp_path)
    after = before.loaded()
    loaded: Any = after.blocks[0].operator
    assert type(loaded).__name__ == "Mix" and loaded.taps == (3, 4)
    assert before.key == after.key == genotype(text).key and before.to_dict() == after.to_dict()
    assert genotype('{"op": "mix_same:Mix"}').key == genotype('{"op": "mix_same:Mix", "size": 3}').key != after.key
    assert short_name(after.blocks[0].operator) == short_name(before.blocks[0].operator) == "Mix"
    for made in (before, after):
        assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made
        assert build_model(made, 10, 1)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_the_operators_of_the_package_are_registered_by_the_same_call(tmp_path):
    written(tmp_path, "mix_call")
    use_folder(tmp_path)
    specs.OPERATORS.register("conv too", specs.Conv, "nas.operators.conv:Conv")
    try:
        assert specs.OPERATORS.layer("conv too") is specs.OPERATORS.layer("conv")
        assert specs.OPERATORS.layer("mix_call:Mix") is load("mix_call:Mix")
    finally:
        del specs.OPERATORS["conv too"]


def test_an_installed_package_gives_short_names(tmp_path):
    """A distribution as installers leave it: its entry points are found, and the full name is what is kept."""
    written(tmp_path, "mix_dist")
    about = tmp_path / "demo_ops-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: demo-ops\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[nas.operators]\nmixed = mix_dist:Mix\n")
    sys.path.insert(0, str(tmp_path))
    file = tmp_path / "it.yaml"
    file.write_text(EXPERIMENT.replace("MODULE:Mix", "mixed, size: 5"), encoding="utf-8")
    config, _ = load_experiment(file)
    assert config.space.operators["mix"].op == "mix_dist:Mix"
    assert genotype('{"op": "mixed", "size": 5}') == genotype('{"op": "mix_dist:Mix", "size": 5}')
    with pytest.raises(ValueError, match=r"allowed is one of conv, .*, gnconv, mixed, or MODULE:CLASS"):
        specs.OPERATORS.find("mixd")


WRONG_CODE = {
    "no module": ("import mix_that_is_not_there\n", r"wrong_\d+\.py:1: ModuleNotFoundError"),
    "syntax": ("class Mix(:\n", r"wrong_\d+\.py:1: SyntaxError"),
    "raises": ("x = 1\nx / 0\n", r"wrong_\d+\.py:2: ZeroDivisionError"),
    "no class": ("class Other: pass\n", "has no 'Mix'; it has Other"),
    "a function": ("def Mix(a, b, c): pass\n", "must be a class, a torch.nn.Module; it is of type function"),
    "no dataclass": (OPERATOR.replace("    @dataclass(frozen=True)\n", ""), "Options must be a frozen dataclass"),
    "not frozen": (OPERATOR.replace("(frozen=True)", ""), "Options must be a frozen dataclass"),
    "a taken name": (
        OPERATOR.replace("size: int", "op: str = 'a'\n        size: int"),
        "Options.op: the name is taken",
    ),
    "another taken name": (OPERATOR.replace("note: str", "stride: str"), "Options.stride: the name is taken"),
    "an option short": (OPERATOR.replace("size, taps, note)", "size, taps)"), "must be callable as Mix"),
    "no type": (OPERATOR.replace("size: int = 3", "size: 'Unknown' = 3"), "Options: .*Unknown"),
}


@pytest.mark.parametrize("name", WRONG_CODE)
def test_what_a_module_does_not_provide_is_said_at_its_location(tmp_path, name):
    code, message = WRONG_CODE[name]
    file = written(tmp_path, f"wrong_{list(WRONG_CODE).index(name)}", code)
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(file)
    (issue,) = caught.value.issues
    assert issue.location and issue.location.line == 5 and "space.operators.mix.op: " in str(issue)


OTHER_FORMS = """\
from typing import Annotated, Literal
from dataclasses import dataclass
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import nn


class Mix(nn.Conv2d):
    @checked(frozen=True)
    class Options:
        groups: Annotated[int, Field(ge=1)] = 1
        form: Literal["a", "b"] = "a"

    def __init__(self, in_channels, out_channels, stride, groups, form):
        super().__init__(in_channels, out_channels, 1, stride, groups=groups)


class Plain(nn.Conv2d):
    def __init__(self, in_channels, out_channels, stride):
        super().__init__(in_channels, out_channels, 1, stride)


class Box(nn.Module):
    @dataclass(frozen=True)
    class Options:
        @staticmethod
        def fits(operator):
            return operator.op.endswith(":Mix")

    def __init__(self, in_channels, spec, drop_path):
        super().__init__()
"""


def test_options_may_be_of_pydantic_or_absent_and_a_block_may_refuse_operators(tmp_path):
    file = written(tmp_path, "mix_forms", OTHER_FORMS)
    config, _ = load_experiment(file, ["space.operators.plain.op=mix_forms:Plain", "space.operators.mix.groups=2"])
    check_own(config.space)
    operators: dict[str, Any] = {**config.space.operators}
    assert operators["mix"].groups == 2 and operators["plain"].op == "mix_forms:Plain"
    with pytest.raises(ConfigError, match=r"mix\.groups: 0 is not allowed; allowed: 1 or more"):
        load_experiment(file, ["space.operators.mix.groups=0"])
    with pytest.raises(ConfigError, match=r"space\.operators\.plain\.size: unknown key"):
        load_experiment(file, ["space.operators.plain={op: mix_forms:Plain, size: 3}"])
    boxed = ["space.stages.0.block=mix_forms:Box"]
    assert load_experiment(file, boxed)[1].choices()["stages.0.operator"] == ["mix"]
    with pytest.raises(ConfigError, match="'conv3' fits no block of the stage: the options of mix_forms:Box say by"):
        load_experiment(file, [*boxed, "space.stages.0.operator=conv3"])


WRONG_OPTIONS = {
    "size: 4": "size: 4: allowed is an odd number",
    "size: a": "mix.size: 'a' is not allowed; allowed: a whole number",
    "sise: 3": "mix.sise: unknown key; did you mean 'size'",
    "taps: 3": "mix.taps: 3 is not allowed; allowed: a list",
}


@pytest.mark.parametrize("options", WRONG_OPTIONS)
def test_options_are_checked_by_the_dataclass(tmp_path, options):
    file = written(tmp_path, f"mix_{list(WRONG_OPTIONS).index(options)}")
    file.write_text(file.read_text().replace(":Mix", f":Mix, {options}"), encoding="utf-8")
    with pytest.raises(ConfigError, match=WRONG_OPTIONS[options]) as caught:
        load_experiment(file)
    assert [issue.location and issue.location.line for issue in caught.value.issues] == [5]


def test_unknown_names_and_modules(tmp_path):
    file = written(tmp_path, "mix_names")
    for name in ("mix_absent:Mix", "mix_absent.sub:Mix"):
        with pytest.raises(ConfigError, match="there is no module 'mix_absent' beside the file"):
            load_experiment(file, [f"space.operators.mix.op={name}"])
    with pytest.raises(ConfigError, match="'gnconv' or MODULE:NAME of your own"):
        load_experiment(file, ["space.operators.mix.op=mixx"])
    for key in ("search.sampler", "proxy.dataset", "retrain.dataset", "space.stages.0.block"):
        with pytest.raises(ConfigError, match=rf"{key}: 'mix_names:Nothing': .*has no 'Nothing'; it has Mix"):
            load_experiment(file, [f"{key}=mix_names:Nothing"])
    with pytest.raises(ConfigError, match=r"proxy.dataset: .* must be callable as Mix\(request\)"):
        load_experiment(file, ["proxy.dataset=mix_names:Mix"])


WRONG_LAYERS = {
    "shape": (
        OPERATOR.replace("size, stride,", "size, 1,"),
        r"gives \[\[2, 16, 5, 5\]\] of 8 to 16 channels with stride 2",
    ),
    "raises": (OPERATOR.replace("return self.conv(x)", "return x.nothing"), r"layer_\d\.py:\d+: AttributeError"),
    "no layer": (
        OPERATOR.replace("class Mix(nn.Module)", "class Mix").replace("super().__init__()", "pass"),
        "must be",
    ),
}


@pytest.mark.parametrize("name", WRONG_LAYERS)
def test_a_layer_that_breaks_its_contract_is_found_before_the_search(tmp_path, name):
    code, message = WRONG_LAYERS[name]
    config, _ = load_experiment(written(tmp_path, f"layer_{list(WRONG_LAYERS).index(name)}", code))
    with pytest.raises(ExtensionError, match=rf"^space.operators.mix.op: .*{message}"):
        check_own(config.space)


def test_a_sampler_that_is_none_is_found_before_the_search(tmp_path):
    code = OPERATOR + "\n\ndef make(seed, run_seed, knowledge):\n    return seed\n"
    file = written(tmp_path, "mix_sampler", code)
    config, space = load_experiment(file, ["search.sampler=mix_sampler:make"])
    with pytest.raises(ValueError, match=r"search\.sampler: 'mix_sampler:make' must give an optuna\.samplers"):
        check_sampler(config.search.sampler, 1, space)


LOADER = """\
import numpy as np
from nas.data.datasets import Images, Pool, pool_of


def load(request):
    pixels, labels = np.zeros((20, 1, 6, 6), np.uint8), np.arange(20) % 2
    return RETURNED
"""
WRONG_DATA = {
    "pixels, labels": "must return a nas.data.datasets.Pool, not tuple",
    "pool_of(request, (pixels / 2, labels), 'ab')": r"pixels are float64 \[20, 1, 6, 6\].*must be uint8 \[N, C, H, W\]",
    "pool_of(request, (pixels, labels[1:]), 'ab')": r"labels int64 \[19\]",
    "pixels.nothing": r"dataset: 'data_\d:load': .*data_\d\.py:7: AttributeError",
    "pool_of(request, (pixels, labels), 'a')": "labels: allowed are whole numbers from 0 to 0, one per class",
}


@pytest.mark.parametrize("returned", WRONG_DATA)
def test_what_is_no_data_set_is_said(tmp_path, returned):
    name = f"data_{list(WRONG_DATA).index(returned)}"
    file = written(tmp_path, name, LOADER.replace("RETURNED", returned))
    config, _ = load_experiment(file, [f"proxy.dataset={name}:load", "space.operators.mix={op: involution}"])
    with pytest.raises(DataError, match=WRONG_DATA[returned]):
        load_dataset(config.proxy, 0, tmp_path)


def test_a_data_set_is_resized_limited_and_split(tmp_path):
    file = written(tmp_path, "data_right", LOADER.replace("RETURNED", "pool_of(request, (pixels, labels), 'ab')"))
    changes = ["proxy.dataset=data_right:load", "proxy.max_images_per_class=5", "space.operators.mix={op: involution}"]
    config, _ = load_experiment(file, changes)
    found = load_dataset(config.proxy, 0, tmp_path)
    assert found.train.pixels.shape[1:] == (1, 8, 8) and len(found.train) + len(found.validation) == 10
    assert found.class_names == ("a", "b") and not {*found.train.index.tolist()} & {*found.validation.index.tolist()}


def test_files_that_are_kept_serve_where_the_folder_is_not(tmp_path):
    """A package with a helper beside it, as a worker on another host gets it: sent as text, written, imported."""
    home, away = tmp_path / "home", tmp_path / "away"
    (home / "lab_kept").mkdir(parents=True)
    (home / "lab_kept" / "ops.py").write_text("from helper_kept import SIZE\n" + OPERATOR.replace("= 3", "= SIZE"))
    (home / "helper_kept.py").write_text("SIZE = 7\n")
    (home / "unused_kept.py").write_text("SIZE = 7\n")
    written(home, "not_kept", "")
    load_experiment(home / "it.yaml", ["space.operators.mix.op=lab_kept.ops:Mix"])
    files = sources(["lab_kept.ops:Mix", "torch:nn"])
    assert sorted(files) == ["helper_kept.py", "lab_kept/ops.py"]
    shutil.rmtree(home)
    program = (
        "import json, sys; from pathlib import Path; from nas.base.extensions import keep, kept;"
        "from nas.space import specs; files = json.load(sys.stdin); keep(Path(sys.argv[1]), files);"
        "print(specs.OPERATORS.find('lab_kept.ops:Mix')().size, kept(Path(sys.argv[1])) == files)"
    )
    command = [sys.executable, "-c", program, str(away)]
    done = subprocess.run(command, input=json.dumps(files), capture_output=True, text=True)
    assert done.stdout.split() == ["7", "True"], done.stderr
    assert (away / "code/lab_kept/ops.py").is_file()


def test_two_modules_of_one_name_are_not_mixed_up(tmp_path):
    for folder, text in (
        ("one", OPERATOR),
        ("same", OPERATOR),
        ("other", OPERATOR.replace("size: int = 3", "size: int = 5")),
    ):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder, "mix_twice", text)
    for folder in ("one", "same"):
        load_experiment(tmp_path / folder / "it.yaml")
    with pytest.raises(ConfigError, match="which this process has imported; start a new one"):
        specs.OPERATORS.pop("mix_twice:Mix")
        load_experiment(tmp_path / "other" / "it.yaml")


def test_json_round_trip_of_what_is_not_loaded():
    text = '{"op": "nowhere:Mix", "taps": [1, [2, 3]], "name": "a", "flag": true}'
    made = genotype(text)
    assert json.loads(json.dumps(made.to_dict()["stages"][0][0]["operator"])) == json.loads(text)
    with pytest.raises(ValueError, match="an option is a number, text"):
        genotype('{"op": "nowhere:Mix", "taps": {"a": 1}}')
