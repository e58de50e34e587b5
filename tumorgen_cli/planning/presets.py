"""Presets and `--set`: plan fields that override the rules."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from tumorgen_cli.system.errors import Fault, PlanError
from tumorgen_cli.system.json_records import unknown_name_fault

_BASE = "name another preset in its field `preset`, or remove that line"
_COPY = "correct that line, or begin with a copy of another preset (`tumorgen presets NAME --copy FILE`)"


def preset_folder() -> Path:
    """The folder of the presets: `plans/` of the repository, or its copy in an installed wheel."""
    packaged = Path(str(resources.files("tumorgen_cli"))) / "plans"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "plans"


def preset_names() -> tuple[str, ...]:
    """Return the names of all presets, sorted."""
    return tuple(sorted(path.stem for path in preset_folder().glob("*.yaml")))


def preset_text(name: str) -> str:
    """Read the YAML text of a preset, including comments.

    Args:
        name: Name of a preset, or path to a YAML file.

    Raises:
        PlanError: there is no such preset.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else preset_folder() / f"{name}.yaml"
    if not path.is_file():
        raise PlanError("No such preset", [unknown_name_fault("--preset", name, preset_names())])
    return path.read_text(encoding="utf-8")


def read_overrides(preset: str | None, settings: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """Read the overrides of a preset and of settings; settings override the preset.

    Args:
        preset: Name or path of a preset, or None.
        settings: Texts of the form `a.b=value`.

    Returns:
        For each field, its value and the source that gave it.

    Raises:
        PlanError: there is no such preset, it cannot be read, or a setting has no `=`.
    """
    import yaml

    found = _read_preset(preset) if preset else {}
    faults = []
    for setting in settings:
        field, sign, text = setting.partition("=")
        if not sign or not field:
            faults.append(Fault(f"--set {setting}", "no '='", "field=value", "for example --set window.alpha=0.1"))
            continue
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError:
                remedy = "quote it for the shell, for example --set 'window.shape=[64,64,64]'"
                faults.append(Fault(f"--set {setting}", "neither JSON nor YAML", "field=value", remedy))
                continue
        found[field.strip()] = (value, "--set")
    if faults:
        raise PlanError("A setting cannot be read", faults)
    return found


def _read_preset(name: str, before: Sequence[str] = ()) -> dict[str, tuple[Any, str]]:
    """The overrides of a preset, on top of those of the preset that its field `preset` names, if it has one."""
    import yaml

    message = "A preset cannot be read"
    if name in before:
        raise PlanError(message, [Fault(name, "a preset that is based on itself", "another one", _BASE)])
    try:
        tree = yaml.safe_load(preset_text(name)) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlanError(message, [Fault(name, str(error), "YAML", _COPY)]) from error
    if not isinstance(tree, Mapping):
        fault = Fault(name, f"a {type(tree).__name__}", "fields with values", "see `tumorgen presets`")
        raise PlanError(message, [fault])
    fields, base = dict(tree), tree.get("preset")
    fields.pop("preset", None)
    found = _read_preset(str(base), (*before, name)) if base else {}
    return found | {field: (value, f"preset {name}") for field, value in _flatten(fields)}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested mappings, with dots between the names."""
    leaves: list[tuple[str, Any]] = []
    for name, value in tree.items():
        field = f"{prefix}{name}"
        leaves += _flatten(value, f"{field}.") if isinstance(value, Mapping) else [(field, _read_number(value))]
    return leaves


def _read_number(value: Any) -> Any:
    """Read a number that YAML takes for a text, such as 1e-4."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
