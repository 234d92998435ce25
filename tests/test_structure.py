"""The shape of the source: what may import what, and what nothing may do."""

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / "pipeline").rglob("*.py"))
}

# From the command line down: a part may import those on the lines below its own.
LAYERS = (
    {"cli"},
    {"stages"},
    {"params"},
    {"training"},
    {"boxes", "heads", "yaml_file"},
    {"cache", "classifiers", "backbones", "data", "reporting", "metrics", "tensorfile"},
    {"adam", "identity", "hypercolumn", "refinement", "names", "progress", "software", "wholefile"},
    {"compiled", "locks", "threads"},
    {"folders"},
    {"errors"},
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
# What the package shows to the outside lies above all layers.
FACADE = {"pipeline.__init__", "pipeline.__main__"}


def part_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(path: Path) -> Iterator[str]:
    """Give every module that a file imports, at its top or anywhere else."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            yield node.module
            if node.module == "pipeline":
                yield from (f"pipeline.{alias.name}" for alias in node.names)


def test_every_part_has_its_layer() -> None:
    assert {part_of(module) for module in SOURCES if module not in FACADE} == LEVEL.keys()


@pytest.mark.parametrize("module", [module for module in SOURCES if module not in FACADE])
def test_imports_run_one_way(module: str) -> None:
    own = part_of(module)
    for imported in imports_of(SOURCES[module]):
        if imported == "pipeline" or imported.startswith("pipeline."):
            assert imported != "pipeline", f"{module} imports the package's facade"
            part = part_of(imported)
            assert part == own or LEVEL[part] > LEVEL[own], f"{module} imports {imported}"


@pytest.mark.parametrize(
    ("library", "parts"),
    [
        ("h5py", {"cache"}),
        ("joblib", {"stages"}),
        ("click", {"cli"}),
        ("rich", {"cli"}),
        ("matplotlib", {"reporting"}),
        ("jinja2", {"reporting"}),
        ("sklearn", {"classifiers"}),
        ("skops", {"classifiers"}),
        ("numba", {"compiled"}),
        ("llvmlite", {"compiled"}),
        ("safetensors", {"backbones", "tensorfile"}),
        ("skimage", {"refinement"}),
        ("yaml", {"cli", "yaml_file"}),
    ],
)
def test_a_library_is_known_in_one_place(library: str, parts: set[str]) -> None:
    users = {
        part_of(module)
        for module, path in SOURCES.items()
        if any(imported.split(".")[0] == library for imported in imports_of(path))
    }
    assert users == parts


@pytest.mark.parametrize(
    "part", ["cli", "data", "reporting", "metrics", "params", "yaml_file", "errors"]
)
def test_tensors_are_unknown_to(part: str) -> None:
    for module, path in SOURCES.items():
        if module not in FACADE and part_of(module) == part:
            assert "torch" not in {imported.split(".")[0] for imported in imports_of(path)}, module


def test_what_does_not_need_torch_does_not_load_it() -> None:
    cheap = ["pipeline", "pipeline.data", "pipeline.metrics", "pipeline.classifiers"]
    cheap += ["pipeline.backbones", "pipeline.reporting"]
    cheap += [module for module in SOURCES if module.startswith("pipeline.cli.")]
    script = "import importlib, sys\n"
    script += "".join(f"importlib.import_module({name!r})\n" for name in cheap)
    script += "print(*{'torch', 'torchvision', 'sklearn', 'h5py', 'numba'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def calls_of(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_that_is_loaded_runs_code(module: str) -> None:
    path = SOURCES[module]
    imported = {name.split(".")[0] for name in imports_of(path)}
    assert not imported & {"dill", "cloudpickle", "shelve", "marshal"}
    if (
        "pickle" in imported and module != "pipeline.compiled.function"
    ):  # that is where code is kept
        used = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"
        }
        assert used == {"UnpicklingError"}  # which torch.load raises
    plain_yaml = {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and [ast.unparse(base) for base in node.bases] == ["yaml.SafeLoader"]
    }
    for function, call in calls_of(path):
        assert function not in {"eval", "exec", "joblib.load", "yaml.unsafe_load"}
        if function == "yaml.load":
            assert ast.unparse(call.args[1]) in plain_yaml, f"{module}:{call.lineno}"
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert "allow_pickle" not in given
        if function == "torch.load":
            assert given.get("weights_only") == "True", f"{module}:{call.lineno}"


@pytest.mark.parametrize("module", SOURCES)
def test_errors_are_raised_and_never_passed_over(module: str) -> None:
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        assert not isinstance(node, ast.Assert), f"{module}:{node.lineno} asserts"
        if isinstance(node, ast.ExceptHandler):
            caught = "everything" if node.type is None else ast.unparse(node.type)
            last = ast.unparse(node.body[-1])
            assert caught != "everything", f"{module}:{node.lineno}"
            assert last != "pass", f"{module}:{node.lineno} passes over {caught}"
            if caught == "BaseException":  # to tidy up
                assert last == "raise", f"{module}:{node.lineno}"
            if caught == "Exception":  # a foreign library's, of any kind: put into our words
                assert last.startswith("raise"), f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", [m for m in SOURCES if not m.startswith("pipeline.cli")])
def test_the_library_does_not_print(module: str) -> None:
    assert "print" not in {function for function, _ in calls_of(SOURCES[module])}


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_is_about_one_thing(module: str) -> None:
    assert len(SOURCES[module].read_text().splitlines()) <= 400


def test_public_names_are_those_of_the_lazy_table() -> None:
    assert pipeline.__all__ == sorted(pipeline._WHERE)
    assert dir(pipeline) == pipeline.__all__
    facade = ast.parse(SOURCES["pipeline.__init__"].read_text())
    typed = [
        alias.name
        for block in facade.body
        if isinstance(block, ast.If)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    ]
    assert sorted(typed) == pipeline.__all__  # what mypy and editors see


@pytest.mark.parametrize("name", pipeline.__all__)
def test_public_names_resolve_and_are_documented(name: str) -> None:
    found = getattr(pipeline, name)
    assert found is getattr(importlib.import_module(pipeline._WHERE[name]), name)
    assert found.__doc__, f"{name} has no docstring"
    assert not found.__doc__.startswith(f"{name}("), f"{name} has no docstring of its own"
    if inspect.isclass(found):
        for method, value in vars(found).items():
            if inspect.isfunction(value) and not method.startswith("_"):
                assert value.__doc__, f"{name}.{method} has no docstring"


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fit_everything'"):
        pipeline.fit_everything  # noqa: B018


def test_no_large_file_is_tracked() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert tracked
    assert [path for path in tracked if path.is_file() and path.stat().st_size > 1_000_000] == []
