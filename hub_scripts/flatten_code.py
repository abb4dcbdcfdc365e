# SPDX-License-Identifier: Apache-2.0
"""The code that a model repository carries: the modules it needs, in one flat folder, importing each other relatively.

transformers loads such a folder with `trust_remote_code=True`. It reads the text of the files with regular expressions
and refuses to load one whose imports are not all installed, unless they stand in a `try`.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PACKAGE = "video_saliency"
INSTALLED_WITH_US = {"av", "huggingface_hub", "numpy", "PIL", "safetensors", "torch", "transformers"}
RELATIVE_IMPORT = re.compile(r"^\s*(?:from|import)\s+\.(\S+)", flags=re.MULTILINE)

COMPANIONS = """

if TYPE_CHECKING:
    # never run: who saves the model again gets copies of the files that are named like this, so it stays complete
{lines}
"""


def flatten(entries: Sequence[str], *, companions_of: str, companions: Mapping[str, str]) -> dict[str, str]:
    """File names and texts of the modules `entries`, and of all that they import from the package.

    Args:
        entries: full module names.
        companions_of: the one of them whose file names the `companions`, in a way that is read but not run.
        companions: further entries that belong to every copy of the repository, and a public name in each.

    Raises:
        ValueError: for two modules of one base name, imports that cannot be flattened, or packages that a user of the
            repository need not have.
    """
    texts: dict[str, str] = {}
    origins: dict[str, str] = {}
    waiting = [*entries, *companions]
    while waiting:
        module = waiting.pop()
        base = _base(module)
        if origins.get(base) == module:
            continue
        if base in origins:
            raise ValueError(f"two modules are named {base}: {module} and {origins[base]}: rename one")
        origins[base] = module
        source = _source(module)
        tree = ast.parse(source)
        _check_packages(module, tree)
        needed = list(_imports_of_package(module, tree))
        texts[f"{base}.py"] = _with_relative_imports(source, needed)
        waiting += [node.module or "" for node in needed]
    if companions:
        owner = f"{_base(companions_of)}.py"
        texts[owner] = _with_companions(texts[owner], companions)
    for name, text in texts.items():
        _check_text(name, text, texts)
    return dict(sorted(texts.items()))


def _base(module: str) -> str:
    return module.rsplit(".", 1)[-1]


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or spec.submodule_search_locations is not None:
        raise ValueError(f"{module} is no single file: import from a module, not from a package")
    return Path(spec.origin).read_text(encoding="utf-8")


def _imports_of_package(module: str, tree: ast.AST) -> Iterator[ast.ImportFrom]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == PACKAGE for alias in node.names):
            raise ValueError(f"{module}, line {node.lineno}: write 'from {PACKAGE}.x import y'")
        if isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{module}, line {node.lineno}: write an absolute import")
            if (node.module or "").split(".")[0] == PACKAGE:
                yield node


def _with_relative_imports(source: str, nodes: list[ast.ImportFrom]) -> str:
    lines = source.splitlines(keepends=True)
    for node in sorted(nodes, key=lambda node: -node.lineno):
        names = [alias.name + (f" as {alias.asname}" if alias.asname else "") for alias in node.names]
        indent = " " * node.col_offset
        statement = f"{indent}from .{_base(node.module or '')} import {', '.join(names)}\n"
        if len(statement) > 120:
            body = "".join(f"{indent}    {name},\n" for name in names)
            statement = f"{indent}from .{_base(node.module or '')} import (\n{body}{indent})\n"
        lines[node.lineno - 1 : node.end_lineno] = [statement]
    return "".join(lines)


def _with_companions(text: str, companions: Mapping[str, str]) -> str:
    lines = "\n".join(f"    from .{_base(module)} import {name}  # noqa: F401" for module, name in companions.items())
    first_import = re.search(r"^from __future__ import annotations\n", text, flags=re.MULTILINE)
    if first_import is None:
        raise ValueError("the file that names its companions must start with 'from __future__ import annotations'")
    text = text[: first_import.end()] + "\nfrom typing import TYPE_CHECKING\n" + text[first_import.end() :]
    return text.rstrip("\n") + "\n" + COMPANIONS.format(lines=lines)


def _check_packages(module: str, tree: ast.AST) -> None:
    """Refuse imports that the loader would want to find installed and a user of the repository may not have."""

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Try):
            return
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            root = name.split(".")[0]
            if root not in INSTALLED_WITH_US | {PACKAGE} | sys.stdlib_module_names:
                raise ValueError(f"{module} imports {root}, which is optional: put the import into a 'try'")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)


def _check_text(name: str, text: str, files: dict[str, str]) -> None:
    """The loader must find in the text the relative imports that there are: none in a docstring, none of no file."""
    real = {
        node.module
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.level and node.module
    }
    found = set(RELATIVE_IMPORT.findall(text))
    if found != real or any(f"{module}.py" not in files for module in real):
        raise ValueError(f"{name}: a line of its text reads like a relative import: {sorted(found ^ real)}")
