"""Reads from the package's source which events it logs, at which levels and with which fields."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "reconciler"
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
ALSO_NAMED = {"log", "critical", "fatal", "warn", "msg"}
"""How structlog's loggers can be called besides, which we do not."""

Scope = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Written:
    """One event as the source has it; `fields` are those given at the call and by the loggers bound before it."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    places: list[str] = field(default_factory=list)


class Source:
    """One file of the package."""

    def __init__(self, path: Path) -> None:
        self._place = path.relative_to(PACKAGE).as_posix()
        self._tree = ast.parse(path.read_text())
        # Two classes of a file may have methods of one name: each is a scope.
        self._scopes = [*(node for node in ast.walk(self._tree) if isinstance(node, Scope)), self._tree]
        self._functions = {node.name: node for node in self._scopes if isinstance(node, Scope)}

    def events(self) -> Iterator[tuple[str, str, set[str], str]]:
        """Name, level, fields and place of every call of a logger; what is no constant stands as its source text."""
        for scope in self._scopes:
            for call in _own(scope):
                for names, level in self._written(call, scope):
                    place = f"{self._place}:{call.lineno}"
                    found = _keywords(call, scope) | self._bound(_receiver(call), scope)
                    yield from ((name, level, found, place) for name in names)

    def _written(self, call: ast.Call, scope: ast.AST) -> Iterator[tuple[list[str], str]]:
        function = call.func
        if isinstance(function, ast.Attribute) and self._is_logger(function.value, scope):
            if function.attr in LEVELS:
                yield _names(call.args[0]), LEVELS[function.attr]
            elif function.attr in ALSO_NAMED:
                yield _names(call.args[1]), function.attr
        elif isinstance(function, ast.Name):
            # `write = log.info if … else log.debug`
            for value in _assigned(function.id, scope):
                for one in ast.walk(value):
                    if isinstance(one, ast.Attribute) and one.attr in LEVELS and self._is_logger(one.value, scope):
                        yield _names(call.args[0]), LEVELS[one.attr]

    def _is_logger(self, node: ast.AST, scope: ast.AST) -> bool:
        """Whether this is `log`, something bound from it, or a parameter that is said to be a logger."""
        return any(True for _ in self._chain(node, scope))

    def _bound(self, node: ast.AST, scope: ast.AST) -> set[str]:
        """The fields that the loggers behind this expression were bound with, as far as this file tells."""
        return {name for fields in self._chain(node, scope) for name in fields}

    def _chain(self, node: ast.AST, scope: ast.AST, seen: frozenset[str] = frozenset()) -> Iterator[set[str]]:
        """What each logger behind this expression was bound with; nothing where it is no logger."""
        text = ast.unparse(node)
        before = f"{id(scope)} {text}"
        if before in seen:
            return
        seen |= {before}
        if text in {"log", "structlog.get_logger()"}:
            yield set()
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "bind":
            yield from (_keywords(node, scope) | fields for fields in self._chain(node.func.value, scope, seen))
        elif isinstance(node, ast.Call) and (called := self._functions.get(ast.unparse(node.func))):
            for value in _returned(called):
                yield from self._chain(value, called, seen)
        elif isinstance(node, ast.Name):
            if _said(node.id, scope):
                yield set()
            for value in _assigned(node.id, scope):
                yield from self._chain(value, scope, seen)


def written() -> dict[str, Written]:
    """Every event of the package by its name."""
    events: dict[str, Written] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, level, fields, place in Source(path).events():
            event = events.setdefault(name, Written())
            event.levels.add(level)
            event.fields |= fields
            event.places.append(place)
    return events


def _own(scope: ast.AST) -> Iterator[ast.Call]:
    """The calls in this scope, not in the functions within it."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, Scope):
            continue
        if isinstance(node, ast.Call):
            yield node
        yield from _own(node)


def _receiver(call: ast.Call) -> ast.AST:
    return call.func.value if isinstance(call.func, ast.Attribute) else call.func


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.IfExp):
        return _names(node.body) + _names(node.orelse)
    return [str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node)]


def _assigned(name: str, scope: ast.AST) -> list[ast.AST]:
    found: list[ast.AST] = []
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == name for target in node.targets):
            found.append(node.value)
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name and node.value is not None:
            found.append(node.value)
    return found


def _returned(scope: ast.AST) -> list[ast.AST]:
    return [node.value for node in ast.walk(scope) if isinstance(node, ast.Return) and node.value is not None]


def _said(name: str, scope: ast.AST) -> bool:
    if not isinstance(scope, Scope):
        return False
    told = {one.arg: one.annotation for one in [*scope.args.args, *scope.args.kwonlyargs]}
    annotation = told.get(name)
    return annotation is not None and "BoundLogger" in ast.unparse(annotation)


def _keywords(call: ast.Call, scope: ast.AST) -> set[str]:
    found = {keyword.arg for keyword in call.keywords if keyword.arg}
    for keyword in call.keywords:
        if keyword.arg is None:
            # `**several`, a dictionary with constant keys.
            for value in _assigned(ast.unparse(keyword.value), scope):
                for one in ast.walk(value):
                    if isinstance(one, ast.Dict):
                        found |= {str(key.value) for key in one.keys if isinstance(key, ast.Constant)}
    return found - {"exc_info"}
