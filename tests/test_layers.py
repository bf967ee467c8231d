"""The direction of imports, and which library may be used where."""

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxssl"

LAYERS = [
    {"core"},
    {"ops", "data", "parallel", "optim", "scores"},
    {"models"},
    {"objectives", "generate", "checkpoint"},
    {"tasks", "transfer"},
    {"program"},
    {"train"},
    {"plan", "report"},
    {"run"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
"""Each imports only from those above it; siblings do not import each other."""

FENCES = {
    "flax": ("models/*.py",),
    "orbax": ("checkpoint/*.py",),
    "tensorstore": ("checkpoint/*.py",),
    "transformers": ("data/tokenizer/*.py", "commands/verify.py"),
    "pydantic": ("core/config/building.py", "core/json_files.py"),
    "yaml": ("core/config/yaml_text.py",),
    "torch": ("commands/verify.py",),
}


@functools.cache
def imports():
    """[(file, imported module, whether at import time)] of the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {n for f in ast.walk(tree) if isinstance(f, FUNCTIONS) for n in ast.walk(f)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                # `from jaxssl import run` imports jaxssl.run.
                whole = node.module == "jaxssl"
                modules = [f"jaxssl.{a.name}" if whole else node.module for a in node.names]
            else:
                continue
            found += [(path.relative_to(PACKAGE), module, node not in inside) for module in modules]
    assert len(found) > 100
    return found


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def layer_of(name):
    return next((i for i, layer in enumerate(LAYERS) if name in layer), None)


def part_of(path):
    return path.parts[0].removesuffix(".py")


def test_every_part_of_the_package_has_a_layer():
    parts = {part_of(path) for path, _, _ in imports()} - {"__init__"}
    assert all(layer_of(part) is not None for part in parts), parts


def test_imports_point_down_the_layers():
    wrong = []
    for path, module, _ in imports():
        package, _, rest = module.partition(".")
        target = rest.partition(".")[0]
        if package != "jaxssl" or layer_of(target) is None or part_of(path) == "__init__":
            continue
        if part_of(path) != target and layer_of(target) >= layer_of(part_of(path)):
            wrong.append(f"{path} imports {module}")
    assert not wrong, wrong


@functools.cache
def import_graph():
    """{module: the package's modules that it imports, inside functions and for types too}.

    The public names in jaxssl/__init__.py are left out: they are loaded when they are used.
    """
    modules = {module_of(path) for path in PACKAGE.rglob("*.py")}
    graph = {module: set() for module in modules}
    for path in PACKAGE.rglob("*.py"):
        if module_of(path) == "jaxssl":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                # `from jaxssl.data import order` imports jaxssl.data.order too.
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in modules else node.module for name in whole]
            else:
                continue
            graph[module_of(path)] |= modules.intersection(names)
    return graph


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(graph):
    """The groups of modules that reach each other (Tarjan's strongly connected components)."""
    numbers, lowest, stack, found = {}, {}, [], []

    def visit(module):
        numbers[module] = lowest[module] = len(numbers)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in numbers:
                visit(other)
            if other in stack:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == numbers[module]:
            at = stack.index(module)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1 or module in graph[module]:
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in numbers:
            visit(module)
    return found


def longest_chain(graph):
    """The longest chain of modules, each importing the next. There must be no circle."""

    @functools.cache
    def chain(module):
        longest = max((chain(other) for other in sorted(graph[module])), key=len, default=[])
        return [module, *longest]

    return max(map(chain, sorted(graph)), key=len)


def test_no_files_import_each_other_in_a_circle():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == [["b", "c"], ["d"]]
    found = circles(import_graph())
    assert not found, "\n".join(" <-> ".join(circle) for circle in found)
    print("the longest chain of imports:", " > ".join(longest_chain(import_graph())))


def test_libraries_stay_behind_their_fences():
    wrong = [
        f"{path} imports {module}"
        for path, module, _ in imports()
        if (allowed := FENCES.get(module.partition(".")[0])) is not None
        and not any(path.match(pattern) for pattern in allowed)
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("part", ["data", "scores"])
def test_the_host_side_is_numpy_and_core_alone(part):
    wrong = [
        f"{path} imports {module}"
        for path, module, _ in imports()
        if part_of(path) == part
        and (
            module.partition(".")[0] in ("jax", "jaxlib", "flax", "optax")
            or (module.startswith("jaxssl.") and module.split(".")[1] not in ("core", part))
        )
    ]
    assert not wrong, wrong


def test_meshes_are_made_in_parallel_alone():
    makes = "jax.make_mesh", " Mesh(", "PartitionSpec("
    found = [
        path.relative_to(PACKAGE)
        for path in PACKAGE.rglob("*.py")
        if any(text in path.read_text(encoding="utf-8") for text in makes)
    ]
    assert {part_of(path) for path in found} == {"parallel"}, found


def test_the_module_of_a_model_is_called_in_one_place():
    calls = [
        (path.relative_to(PACKAGE).as_posix(), line.strip())
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "module.apply" in line
    ]
    assert {path for path, _ in calls} == {"models/model.py"}, calls
    assert len(calls) == 1, "in Model.apply, where adapters come in"


HEAVY = {"jax", "flax", "optax", "orbax", "transformers", "tokenizers", "datasets", "datatrove"}
HEAVY |= {"torch", "grain", "sentencepiece", "matplotlib", "tensorboardX", "pydantic", "yaml"}
HEAVY |= {"sklearn", "scipy"}
LIGHT = (
    *("jaxssl", "jaxssl.cli", "jaxssl.core.config", "jaxssl.data.corpus.prepare"),
    *("jaxssl.data.tokenizer.training", "jaxssl.report"),
    *("jaxssl.scores.classification", "jaxssl.scores.regression"),
)


def test_what_help_needs_loads_nothing_heavy():
    """One interpreter imports them one after another, and tells what each brought along."""
    code = f"""
import importlib, sys
for module in {LIGHT!r}:
    importlib.import_module(module)
    heavy = {HEAVY!r} & {{name.partition(".")[0] for name in sys.modules}}
    if heavy:
        sys.exit(f"{{module}} loads {{heavy}}")
print(len({LIGHT!r}))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert (out.returncode, out.stdout) == (0, f"{len(LIGHT)}\n"), out.stderr
