"""The laws of the package: imports point down, every folder has a face, SimpleITK has one door, heavy imports wait."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import tumorgen_cli

PACKAGE = Path(tumorgen_cli.__file__).parent
ROOT = PACKAGE.parent
HEAVY = ("torch", "nnunetv2", "SimpleITK")
FACES = sorted(
    path.parent
    for path in PACKAGE.rglob("__init__.py")
    if path.parent != PACKAGE and path.parent.name != "nnunet_trainers"
)
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))
#: a function whose body, without its docstring, is longer than this says why in a comment "Long: ..." in its body
LONGEST = 60


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def test_imports_point_down():
    """The contracts are in pyproject.toml; none has an exception."""
    assert "ignore_imports" not in (ROOT / "pyproject.toml").read_text()
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_the_top_level_holds_folders_geometry_and_figures():
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == {
        "__init__.py",
        "geometry.py",
        "figures.py",
        "py.typed",
    }


@pytest.mark.parametrize("folder", FACES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_folder_has_a_face(folder):
    """A paragraph, and a few names that resolve and are not shadowed by a module of the same name."""
    face = importlib.import_module(dotted(folder))
    assert face.__doc__
    assert len(face.__doc__.split()) >= 8
    assert len(face.__all__) <= (42 if folder.name == "api" else 12)
    for name in face.__all__:
        assert not (folder / f"{name}.py").exists(), f"{name} is a module and a name of the face"
        assert getattr(face, name) is not None


def test_faces_are_light():
    code = "\n".join(f"import {dotted(folder)}" for folder in FACES)
    assert loaded(code, *HEAVY) == []


def test_no_two_classes_of_one_name():
    found = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(dotted(path))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_no_function_is_long_without_a_reason():
    long = []
    for path in MODULES:
        lines = path.read_text().splitlines()
        for node in functions(path):
            first = node.body[min(len(node.body) - 1, ast.get_docstring(node) is not None)]
            body = lines[first.lineno - 1 : node.end_lineno]
            if len(body) > LONGEST and not any("# Long:" in line for line in body):
                long.append(f"{dotted(path)}.{node.name}: {len(body)} lines")
    assert long == []


def test_modules_do_not_import_private_names():
    private = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tumorgen_cli"):
                private += [
                    f"{dotted(path)}: {a.name}"
                    for a in node.names
                    if a.name.startswith("_") and a.name != "__version__"
                ]
    assert private == []


def test_tests_do_not_import_tests():
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.split(".")[-1].startswith("test_") or name == "conftest"], path


def loaded(code: str, *names: str) -> list[str]:
    """Which of `names` a fresh Python has imported after `code`."""
    program = f"import sys\n{code}\nprint('LOADED', *[n for n in {names!r} if n in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    "arguments",
    [
        None,
        ["--help"],
        ["synthesize", "-h"],
        ["--version"],
        ["presets"],
        ["synthesize", "--box"],
        ["nothing"],
        ["train", "vae", "--wrong"],
        ["compare", "--methods", "copypast"],
        ["nnunet-setup"],
        ["reader-study", "make", "-h"],
    ],
)
def test_the_command_line_starts_light(arguments):
    call = (
        "" if arguments is None else f"\ntry:\n    app({arguments!r})\nexcept SystemExit as end:\n    code = end.code"
    )
    assert loaded(f"from tumorgen_cli.cli.main import app{call}", *HEAVY) == []


def test_the_api_starts_light():
    assert loaded("from tumorgen_cli import api\ndir(api)", *HEAVY) == []


def test_training_needs_neither_simpleitk_nor_nnunet():
    code = (
        "import tumorgen_cli.pipeline.train\nfrom tumorgen_cli.methods.registry import METHODS, find_method\n"
        "for name in METHODS: find_method(name)"
    )
    assert loaded(code, *HEAVY) == ["torch"]
