"""The house's law: imports point down, SimpleITK has one door, and nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tumorgen_cli

PACKAGE = Path(tumorgen_cli.__file__).parent
LAYERS = [
    {"errors", "records"},
    {"files", "volumes", "console", "devices", "processes"},
    {"faults", "dataset", "fingerprint", "phantom", "rules", "plan", "shards", "workspace"},
    {"windows", "boxes", "character", "shapes", "texture", "healing", "preprocess", "pool", "folds", "results"},
    {
        "nets.vae",
        "nets.flow_unet",
        "nets.refiner",
        "nets.lite0",
        "nets.plane_unet",
        "nets.vqgan",
        "nets.unet",
        "nets.tumor_generator",
        "flow",
        "diffusion",
        "previews",
        "pages",
        "metrics.agreement",
        "live",
    },
    {"training", "autoencoding", "latents", "painting", "vector_field", "nnunet_trainers.nnUNetTrainerTumorGen"},
    {
        "methods",
        "methods.method",
        "methods.tumorgen",
        "methods.difftumor",
        "methods.freetumor",
        "methods.blended",
        "methods.copypaste",
        "methods.syntumor",
    },
    {
        "hosts",
        "synthesis",
        "sets",
        "judge",
        "judging",
        "nnunet",
        "nnunet_child",
        "judge_training",
        "stages",
        "budgets",
        "metrics.features",
        "metrics.frechet",
        "metrics.novelty",
        "metrics.reader_test",
        "metrics.scores",
        "metrics.tumors",
    },
    {
        "evaluation",
        "filtering",
        "judges",
        "merging",
        "status",
        "reader_study",
        "report",
        "comparison_table",
        "comparison_page",
        "gains",
        "pipeline",
    },
    {"subsets", "organs", "downstream_page", "downstream_runs", "painter", "nnunet_setup"},
    {"comparison", "downstream", "demo", "cli_options", "cli_nnunet", "cli"},
]
LAYER = {module: number for number, modules in enumerate(LAYERS) for module in modules}
#: module -> modules of its own layer that it may import
BESIDE = {
    "nets.vqgan": {"nets.vae"},
    "methods.difftumor": {"methods.method"},
    "methods.blended": {"methods.method"},
    "autoencoding": {"training"},
    "latents": {"autoencoding"},
    "painting": {"autoencoding"},
    "volumes": {"files"},
    "console": {"files"},
    "dataset": {"faults"},
    "fingerprint": {"dataset", "rules"},
    "plan": {"rules"},
    "workspace": {"plan"},
    "boxes": {"windows"},
    "character": {"windows"},
    "shapes": {"windows"},
    "preprocess": {"windows"},
    "methods": {"methods.method"},
    "methods.tumorgen": {"methods.method"},
    "methods.copypaste": {"methods.method"},
    "methods.syntumor": {"methods.method"},
    "methods.freetumor": {"methods.method"},
    "nets.tumor_generator": {"nets.unet"},
    "judging": {"judge"},
    "judge_training": {"judge", "nnunet"},
    "nnunet_child": {"nnunet"},
    "healing": {"texture", "windows"},
    "budgets": {"stages"},
    "sets": {"judge"},
    "synthesis": {"hosts", "judge", "judging", "sets"},
    "metrics.frechet": {"metrics.features"},
    "metrics.novelty": {"metrics.tumors"},
    "metrics.reader_test": {"metrics.tumors"},
    "metrics.scores": {"metrics.frechet", "metrics.novelty", "metrics.reader_test", "metrics.tumors"},
    "filtering": {"evaluation"},
    "reader_study": {"evaluation"},
    "evaluation": {"report"},
    "comparison_page": {"comparison_table", "evaluation"},
    "organs": {"subsets"},
    "pipeline": {"evaluation", "filtering", "judges", "merging", "reader_study"},
    "nnunet_setup": {"painter"},
    "cli_nnunet": {"cli_options", "downstream"},
    "cli": {"cli_options", "cli_nnunet", "comparison", "demo"},
}
HEAVY = ("torch", "nnunetv2", "SimpleITK")


def modules():
    """Name below the package -> file; empty `__init__` files are left out."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body):
            found[name] = path
    return found


def imports(path):
    """Every imported module's full name, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path, known):
    names = {name.removeprefix("tumorgen_cli.") for name in imports(path) if name.startswith("tumorgen_cli.")}
    return {name for name in names if name in known}


def test_every_module_has_a_layer():
    assert set(modules()) == set(LAYER)


@pytest.mark.parametrize("module", sorted(LAYER))
def test_imports_point_down(module):
    found = own_imports(modules()[module], LAYER)
    wrong = {name for name in found if LAYER[name] >= LAYER[module] and name not in BESIDE.get(module, ())}
    assert not wrong, f"{module} (layer {LAYER[module]}) imports {wrong}"


def test_no_exception_is_unused():
    """An import that is gone loses its permission, so that the list says what is."""
    files = modules()
    unused = {m: beside - own_imports(files[m], LAYER) for m, beside in BESIDE.items()}
    assert {m: names for m, names in unused.items() if names} == {}


def test_methods_never_import_each_other():
    files = modules()
    names = {m for m in LAYER if m.startswith("methods.")} - {"methods.method"}
    for name in names:
        assert not own_imports(files[name], names), name


def test_networks_and_flow_know_no_plan():
    files = modules()
    for name in ("flow", "nets.vae", "nets.flow_unet", "nets.refiner", "nets.unet", "nets.tumor_generator"):
        assert not [i for i in own_imports(files[name], LAYER) if not i.startswith("nets.")], name


def test_volumes_alone_imports_simpleitk():
    assert [name for name, path in modules().items() if "SimpleITK" in {i.split(".")[0] for i in imports(path)}] == [
        "volumes"
    ]


def loaded(code, *names):
    """Which of `names` a fresh Python has imported after `code`."""
    told = f"import sys\n{code}\nprint('LOADED', *[n for n in {names!r} if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    "arguments",
    [
        None,
        ["--help"],
        ["synthesize", "--help"],
        ["--version"],
        ["presets"],
        ["synthesize", "--box"],
        ["nothing"],
        ["train", "vae", "--wrong"],
        ["compare", "--methods", "copypast"],
        ["nnunet-setup"],
    ],
)
def test_the_command_line_starts_light(arguments):
    call = (
        ""
        if arguments is None
        else f"\ntry:\n    tumorgen_cli.cli.app({arguments!r})\nexcept SystemExit as end:\n    code = end.code"
    )
    assert loaded(f"import tumorgen_cli.cli{call}", *HEAVY) == []


def test_training_needs_neither_simpleitk_nor_nnunet():
    code = "import tumorgen_cli.stages, tumorgen_cli.methods.tumorgen, tumorgen_cli.methods.freetumor"
    assert loaded(code, "SimpleITK", "nnunetv2", "torch") == ["torch"]
