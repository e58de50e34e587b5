"""The remedies in the source: every text that may be the remedy of a `Fault`, found by following names in the code.

A field of an f-string is `{}`. Names are followed to assignments in the function, to constants of modules, to what a
function returns and, for a parameter, to what its callers give.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

import tumorgen_cli

PACKAGE = Path(tumorgen_cli.__file__).parent
FIELD = "{}"
_DEEPEST = 7  # steps from a Fault to the text of its remedy
_ARGUMENT = 3  # where, found, expected, remedy


@dataclass(frozen=True, eq=False)
class Module:
    """A file of the package."""

    name: str
    tree: ast.Module
    parents: dict[ast.AST, ast.AST]

    @functools.cached_property
    def constants(self) -> dict[str, ast.expr]:
        found = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                found[node.target.id] = node.value
        return found

    @functools.cached_property
    def functions(self) -> dict[str, ast.FunctionDef]:
        return {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}

    @functools.cached_property
    def imports(self) -> dict[str, tuple[str, str]]:
        nodes = [node for node in ast.walk(self.tree) if isinstance(node, ast.ImportFrom)]
        return {alias.asname or alias.name: (node.module or "", alias.name) for node in nodes for alias in node.names}

    def function_of(self, node: ast.AST) -> ast.FunctionDef | None:
        while node in self.parents:
            node = self.parents[node]
            if isinstance(node, ast.FunctionDef):
                return node
        return None


@functools.cache
def modules() -> dict[str, Module]:
    """All modules of the package by their full names."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(("tumorgen_cli", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        found[name] = Module(name, tree, parents)
    return found


def printed_remedies() -> dict[str, set[str]]:
    """Every text of a remedy, with the places (`module:line`) of the faults that have it."""
    found: dict[str, set[str]] = {}
    for module, call in _all_calls()["Fault"]:
        for text in _texts(module, _argument(call, _ARGUMENT, "remedy"), call):
            found.setdefault(text, set()).add(f"{module.name}:{call.lineno}")
    return found


@functools.cache
def _all_calls() -> dict[str, list[tuple[Module, ast.Call]]]:
    found: dict[str, list[tuple[Module, ast.Call]]] = {}
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                found.setdefault(_called(node), []).append((module, node))
    return found


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _argument(call: ast.Call, index: int, name: str) -> ast.expr | None:
    named = [keyword.value for keyword in call.keywords if keyword.arg == name]
    return named[0] if named else call.args[index] if len(call.args) > index else None


def _parameters(function: ast.FunctionDef) -> list[str]:
    return [each.arg for each in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]


def _texts(module: Module, node: ast.AST | None, at: ast.AST, depth: int = 0) -> set[str]:
    """The texts that an expression may be; `at` is a node in the function whose names it uses."""
    again = functools.partial(_texts, module, at=at, depth=depth + 1)
    if depth > _DEEPEST or node is None:
        return {FIELD}
    if isinstance(node, ast.Constant):
        return {node.value if isinstance(node.value, str) else FIELD}
    if isinstance(node, ast.JoinedStr):
        return _joined(
            [{p.value} if isinstance(p, ast.Constant) else _field(module, p.value, at, depth) for p in node.values]
        )
    if isinstance(node, ast.BinOp):
        return _joined([again(node.left), again(node.right) if isinstance(node.op, ast.Add) else {"", FIELD}])
    if isinstance(node, ast.IfExp):
        return again(node.body) | again(node.orelse)
    if isinstance(node, ast.BoolOp):
        return set().union(*map(again, node.values))
    if isinstance(node, ast.Call):
        return _returned(module, node, depth) or {FIELD}
    if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in module.imports:
        other = modules().get(".".join(module.imports[node.value.id]))
        return _texts(other, other.constants.get(node.attr), other.tree, depth + 1) if other else {FIELD}
    return _named(module, node.id, at, depth) if isinstance(node, ast.Name) else {FIELD}


def _field(module: Module, node: ast.expr, at: ast.AST, depth: int) -> set[str]:
    """The texts of a field of an f-string; parameters are not followed: most are paths and names."""
    function = module.function_of(at)
    known = isinstance(node, (ast.IfExp, ast.Call)) or (
        isinstance(node, ast.Name) and (function is None or node.id not in _parameters(function))
    )
    return _texts(module, node, at, depth + 1) if known else {FIELD}


def _joined(parts: list[set[str]]) -> set[str]:
    found = {""}
    for part in parts:
        found = {text + end for text in found for end in part}
    return found


def _returned(module: Module, call: ast.Call, depth: int) -> set[str]:
    """The texts that a function of the package returns."""
    name = _called(call)
    owner = module if name in module.functions else modules().get(module.imports.get(name, ("",))[0])
    if owner is None or name not in owner.functions:
        return set()
    ends = [node for node in ast.walk(owner.functions[name]) if isinstance(node, ast.Return) and node.value]
    return set().union(*(_texts(owner, end.value, end, depth + 1) for end in ends))


def _named(module: Module, name: str, at: ast.AST, depth: int) -> set[str]:
    """The texts that a name may stand for."""
    function = module.function_of(at)
    while function is not None:
        found = set().union(
            *(_texts(module, value, function.body[0], depth + 1) for value in _bound(module, function, name))
        )
        if found:
            return found
        arguments = _parameters(function)
        if name in arguments:
            return _given(function, arguments, name, depth)
        function = module.function_of(function)
    if name in module.constants:
        return _texts(module, module.constants[name], module.tree, depth + 1)
    owner, original = module.imports.get(name, ("", ""))
    if owner in modules() and original in modules()[owner].constants:
        return _texts(modules()[owner], modules()[owner].constants[original], modules()[owner].tree, depth + 1)
    return {FIELD}


def _given(function: ast.FunctionDef, arguments: list[str], name: str, depth: int) -> set[str]:
    """The texts that callers give for a parameter, and its default."""
    index = arguments.index(name) - (arguments[0] in ("self", "cls"))
    found: set[str] = set()
    for module, call in _all_calls().get(function.name, ()):
        if (value := _argument(call, index, name)) is not None:
            found |= _texts(module, value, call, depth + 1)
    defaults = dict(zip(reversed(function.args.args), reversed(function.args.defaults), strict=False))
    for argument, default in defaults.items():
        if argument.arg == name:
            found |= {str(default.value)} if isinstance(default, ast.Constant) else set()
    return found or {FIELD}


def _bound(module: Module, function: ast.FunctionDef, name: str) -> list[ast.expr]:
    """The expressions that a function binds to a name, alone or as one of several."""
    found = []
    for node in ast.walk(function):
        if isinstance(node, (ast.Assign, ast.For, ast.comprehension)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            value = node.value if isinstance(node, ast.Assign) else node.iter
            for target in targets:
                if isinstance(target, ast.Name) and target.id == name and isinstance(node, ast.Assign):
                    found.append(value)
                elif isinstance(target, ast.Tuple):
                    places = [i for i, each in enumerate(target.elts) if getattr(each, "id", "") == name]
                    rows = [value] if isinstance(node, ast.Assign) else _rows(module, function, value)
                    found += [item for place in places for row in rows for item in _items(module, function, row, place)]
        elif isinstance(node, ast.AugAssign) and getattr(node.target, "id", "") == name:
            found.append(node.value)
    return found


def _rows(module: Module, function: ast.FunctionDef, value: ast.expr) -> list[ast.expr]:
    """What a loop runs over: the elements of a tuple or list, or the items of a dictionary, as tuples."""
    if isinstance(value, ast.Call) and _called(value) == "items" and isinstance(value.func, ast.Attribute):
        values = [value.func.value, *_named_values(module, function, value.func.value)]
        pairs = [zip(each.keys, each.values, strict=True) for each in values if isinstance(each, ast.Dict)]
        return [ast.Tuple([key, item]) for pair in pairs for key, item in pair if key is not None]
    values = [value, *_named_values(module, function, value)]
    return [row for each in values if isinstance(each, (ast.Tuple, ast.List)) for row in each.elts]


def _items(module: Module, function: ast.FunctionDef, value: ast.expr, place: int) -> list[ast.expr]:
    """The expressions at a place of the tuples that an expression may be."""
    if isinstance(value, ast.Tuple):
        return [value.elts[place]]
    if isinstance(value, ast.IfExp):
        parts = [value.body, value.orelse]
    elif isinstance(value, ast.BoolOp):
        parts = value.values
    elif isinstance(value, ast.Call) and _called(value) == "get" and isinstance(value.func, ast.Attribute):
        tables = _named_values(module, function, value.func.value)
        parts = [row for table in tables if isinstance(table, ast.Dict) for row in table.values]
    else:
        parts = _named_values(module, function, value)
    return [item for part in parts for item in _items(module, function, part, place)]


def _named_values(module: Module, function: ast.FunctionDef, node: ast.expr) -> list[ast.expr]:
    """The expressions that a name is bound to in a function or a module."""
    if not isinstance(node, ast.Name):
        return []
    local = [each for each in ast.walk(function) if isinstance(each, (ast.Assign, ast.AnnAssign)) and each.value]
    targets = [
        (t, each.value) for each in local for t in (each.targets if isinstance(each, ast.Assign) else [each.target])
    ]
    found = [value for target, value in targets if getattr(target, "id", "") == node.id]
    return found or ([module.constants[node.id]] if node.id in module.constants else [])
