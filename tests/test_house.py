"""The rules of the house: what may import what, what never appears in the code, what `import errata` may cost."""

import ast
import importlib
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"

BASE = {"errors", "core", "store", "facts"}
METHODS = {"stats", "edit", "evaluate", "lens", "tracing"}
# What each package of errata may import of errata. A new package is a new row.
MAY_IMPORT = {
    "errors": set(),
    "core": {"errors"},
    "store": {"errors"},
    "facts": {"errors", "store"},
    "models": BASE,
    "stats": BASE | {"models"},
    "patches": BASE | {"models"},
    "edit": BASE | {"models", "stats", "patches", "backends"},
    "evaluate": BASE | {"models"},
    "views": {"errors", "core", "store"},
    "lens": BASE | {"models", "patches"},
    "tracing": BASE | {"models", "patches"},
    "backends": {"errors", "core"},
    "checks": BASE | {"models", "edit", "evaluate"},
    "jobs": BASE | {"models", "patches", "checks", "backends"} | METHODS,
    "reports": BASE | {"models", "patches", "checks", "jobs", "views"} | METHODS,
    "cli": BASE | {"models", "patches", "checks", "jobs", "reports", "views"} | METHODS,
    "__main__": {"cli"},
}
Function = ast.FunctionDef | ast.AsyncFunctionDef
# Of a function outside the command line.
MOST_PARAMETERS = 12
# How a result shows itself is told upstairs: imported where it is asked for, and nowhere else.
SHOWS_ITSELF = {
    ("errata.jobs.edit_job", "errata.reports.verdict_text"),
    ("errata.lens.backward_lens", "errata.reports.lens_grid"),
    ("errata.lens.backward_lens", "errata.views.html"),
    ("errata.lens.table", "errata.reports.lens_grid"),
    ("errata.lens.table", "errata.views.html"),
    ("errata.tracing.average", "errata.reports.trace_grid"),
    ("errata.tracing.average", "errata.views.html"),
    ("errata.tracing.result", "errata.reports.trace_grid"),
    ("errata.tracing.result", "errata.views.html"),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SRC.rglob("*.py"))}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def run_time_nodes(tree: ast.AST) -> list[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`, which import nothing when the program runs."""
    found = [tree]
    for child in ast.iter_child_nodes(tree):
        if not is_type_checking(child):
            found += run_time_nodes(child)
    return found


def imports(source: str, modules: set[str], *, types: bool = False) -> set[str]:
    """Modules of errata that a module imports, at its top or inside a function; with `types`, for types alone too."""
    found: set[str] = set()
    tree = ast.parse(source)
    for node in ast.walk(tree) if types else run_time_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import: {ast.unparse(node)}"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # A name that is no module comes from the package itself.
            found |= {name if name in modules else str(node.module) for name in names}
    return {name for name in found if name.split(".")[0] == "errata"}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return {name: imports(path.read_text(), set(MODULES)) for name, path in MODULES.items()}


def top(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def is_breach(module: str, other: str) -> bool:
    own = top(module)
    return top(other) not in MAY_IMPORT[own] | {own, ""} and (module, other) not in SHOWS_ITSELF


# Floors within a package, each allowed those before it; what is not named stands above all of them.
FLOORS = {
    "edit": (
        "settings",
        "values",
        "training",
        "method",
        "check",
        "guard",
        "methods",
        "registry",
        "preset_file",
        "lookup",
    ),
    "models": ("families.rows", "families.handover", "language_model", "weights", "text", "run", "families"),
    "jobs": ("clock", "memory", "terminal_progress", "stats_job", "held_out", "batches", "workbench"),
}


def floor_of(module: str, floors: tuple[str, ...]) -> int:
    """The number of a module's floor: that of the longest name that it begins with, or the highest."""
    inside = module.split(".", 2)[2]
    own = [name for name in floors if f"{inside}.".startswith(f"{name}.")]
    return floors.index(max(own, key=len)) if own else len(floors)


def falling_upwards(graph: dict[str, set[str]]) -> list[str]:
    """Imports within a package from a higher floor."""
    found = []
    for package, floors in FLOORS.items():
        inside = f"errata.{package}."
        for module in (name for name in graph if name.startswith(inside)):
            own = floor_of(module, floors)
            above = [other for other in graph[module] if other.startswith(inside) and floor_of(other, floors) > own]
            found += [f"{module} imports {other}" for other in sorted(above)]
    return found


def breaches(graph: dict[str, set[str]]) -> list[str]:
    found = []
    for module, imported in graph.items():
        own = top(module)
        if not own:  # errata/__init__ offers names of every package, lazily
            continue
        if own not in MAY_IMPORT:
            found.append(f"{module}: no row for {own!r} in MAY_IMPORT")
            continue
        found += [f"{module} imports {other}" for other in sorted(imported) if is_breach(module, other)]
    return found


def test_dependencies_point_one_way(graph):
    assert len(graph) > 10
    assert breaches(graph) == []


def function_imports(source: str, modules: set[str]) -> set[str]:
    """Modules of errata that a module imports inside functions only."""
    tree = ast.parse(source)
    bodies = [node for node in ast.walk(tree) if isinstance(node, Function)]
    inside = set().union(*(imports(ast.unparse(body), modules) for body in bodies))
    for body in bodies:
        body.body = [ast.Pass()]
    return inside - imports(ast.unparse(tree), modules)


def test_results_that_show_themselves_are_exactly_those():
    for module, other in SHOWS_ITSELF:
        assert other in function_imports(MODULES[module].read_text(), set(MODULES)), f"{module} does not: {other}"
        assert top(other) not in MAY_IMPORT[top(module)], f"{module} may import {other} in any case"


def test_no_import_cycles():
    """Not even one of imports for types alone."""
    graph = {
        name: {
            other for other in imports(path.read_text(), set(MODULES), types=True) if (name, other) not in SHOWS_ITSELF
        }
        for name, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' → '.join(error.args[1])}")


# Modules under 25 lines, each with what keeps it from being part of another.
SHORT = {
    "errata.edit.settings.search_space": "what methods below and tuning above both name",
    "errata.backends.local": "a back end is a module, and this one needs nothing",
    "errata.cli.screen": "asked before any of errata is loaded, by every command",
    "errata.core.allocator": "the C library's settings, which nothing else has to do with",
    "errata.evaluate.perplexity": "the one measure of text alone, without a second state to compare",
    "errata.jobs.clock": "seconds by stage",
    "errata.jobs.memory": "a measure of the process, not of a model",
    "errata.stats.recipe": "under which name second moments are kept: read by who keeps them and by who looks for them",
}


def test_no_module_is_a_fragment():
    small = [
        name for name, path in MODULES.items() if path.stem[:2] != "__" and len(path.read_text().split("\n")) <= 25
    ]
    assert sorted(small) == sorted(SHORT)


def test_the_rules_see_what_they_should():
    """The checks above on code that breaks them."""
    modules = {"errata", "errata.models", "errata.models.load", "errata.cli", "errata.jobs", "errata.edit"}
    source = """
from typing import TYPE_CHECKING
import errata.cli
from errata import models
from errata.models import load, LanguageModel
if TYPE_CHECKING:
    from errata.jobs import x
def late():
    from errata.edit import memit
"""
    found = imports(source, modules)
    assert imports(source, modules, types=True) == {*found, "errata.jobs"}
    assert function_imports(source, modules) == {"errata.edit"}
    assert found == {"errata.cli", "errata.models", "errata.models.load", "errata.edit"}
    assert breaches({"errata.core.a": {"errata.models"}, "errata.stats.b": {"errata.edit"}, "errata.new": set()}) == [
        "errata.core.a imports errata.models",
        "errata.stats.b imports errata.edit",
        "errata.new: no row for 'new' in MAY_IMPORT",
    ]


def test_only_models_know_families():
    """Everything else sees the one standard view: no test for a family, by name or by class."""
    by_class = re.compile(r"isinstance\([^)]*\b(nn\.\w+|Conv1D|Linear|Embedding|\w+ForCausalLM|PreTrainedModel)\b")
    found = []
    for name, path in MODULES.items():
        text = path.read_text()
        if top(name) != "models" and (re.search(r"\bmodel_type\b", text) or by_class.search(text)):
            found.append(name)
    assert found == []


def test_only_models_run_sets_hooks():
    found = [name for name, path in MODULES.items() if re.search(r"\bregister_\w*hook\b", path.read_text())]
    assert found == ["errata.models.run.hooks"]


def test_only_models_know_the_model_of_the_library():
    """`lm.hf` is for users: what errata needs of it, LanguageModel gives."""
    found = [name for name, path in MODULES.items() if re.search(r"\blm\.hf\b", path.read_text())]
    assert {name for name in found if not name.startswith("errata.models.")} == set()


def test_only_plotting_imports_matplotlib():
    found = [name for name, path in MODULES.items() if re.search(r"\b(import|from) matplotlib\b", path.read_text())]
    assert found == ["errata.views.plotting"]


FORBIDDEN = {
    "pickle": r"\b(import|from) (c?pickle|dill|cloudpickle|joblib|shelve|marshal)\b",
    "torch.load": r"\btorch\.(load|save)\(",
    "numpy pickles": r"allow_pickle\s*=\s*True",
    "remote code": r"trust_remote_code\s*=\s*(?!False\b)",
    "unsafe weights": r"weights_only\s*=\s*False|use_safetensors\s*=\s*False",
    "shell": r"shell\s*=\s*True|os\.system\(",
    "eval": r"(?<![\w.])(eval|exec)\(",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_never_in_the_code(what):
    found = [name for name, path in MODULES.items() if re.search(FORBIDDEN[what], path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("pickle", "import pickle"),
        ("torch.load", "torch.load(path)"),
        ("remote code", "trust_remote_code=flag"),
        ("eval", "x = eval(text)"),
    ],
)
def test_forbidden_patterns_match(what, text):
    assert re.search(FORBIDDEN[what], text)


def test_allowed_lookalikes_do_not_match():
    assert not re.search(FORBIDDEN["remote code"], "trust_remote_code=False")
    assert not re.search(FORBIDDEN["eval"], "model.eval()")


def loaded_after(code: str) -> set[str]:
    """Names of the top-level packages that a fresh interpreter has loaded after running `code`."""
    report = "import sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {"torch", "transformers", "pyarrow", "numpy"}


@pytest.mark.parametrize("module", ["errata", "errata.facts", "errata.store", "errata.errors", "errata.core.progress"])
def test_light_imports(module):
    assert HEAVY & loaded_after(f"import {module}") == set()


def test_help_is_light():
    code = """
import sys
from errata.cli import main
sys.argv = ["errata", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    assert HEAVY & loaded_after(code) == set()


def test_public_names_exist():
    errata = importlib.import_module("errata")
    assert errata.__all__
    assert [name for name in errata.__all__ if not hasattr(errata, name)] == []


def project_files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
        return [path for path in paths if path.is_file()]
    # Not a git checkout (an unpacked archive): there is nothing untracked in it but what set-up made.
    made = {".venv", ".git", "__pycache__", ".hypothesis", ".ruff_cache", "runs"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not made & set(path.relative_to(ROOT).parts)]


def test_no_paths_of_one_machine():
    # In pieces: this file is searched too.
    pattern = re.compile("|".join(re.escape("/" + place) for place in ("work" + "/", "tmp" + "/x", "tmp" + "/brief")))
    files = project_files()
    assert ROOT / "pyproject.toml" in files
    found = [
        str(path.relative_to(ROOT))
        for path in files
        if path.suffix not in {".png", ".pdf", ".parquet"} and pattern.search(path.read_text(errors="replace"))
    ]
    assert found == []


# What classes of libraries call by name, so that what overrides it needs no word of ours. A new base is a new row.
LIBRARY_METHODS = {"nn.Module": {"forward"}, "TyperCommand": {"format_options", "format_epilog"}}


def errors_and_bases(source: str) -> dict[str, set[str]]:
    """Each class of a module of errors, with itself and all classes above it: what an `except` may name to catch it."""
    found: dict[str, set[str]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {node.name}.union(*(found.get(base, {base}) for base in map(ast.unparse, node.bases)))
    return found


def public_functions(body: list[ast.stmt], owner: str = "") -> list[tuple[str, Function]]:
    """Functions and methods of public classes, by qualified name."""
    found: list[tuple[str, Function]] = []
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found += public_functions(node.body, f"{owner}{node.name}.")
        if isinstance(node, Function) and not node.name.startswith("_"):
            found.append((owner + node.name, node))
    return found


def raised_names(nodes: Iterable[ast.AST]) -> set[str]:
    """Classes that code raises and does not catch itself; functions within it are left out."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Try):
            inside = {name for name in raised_names(node.body) if not ERRORS.get(name, {name}) & caught_names(node)}
            found |= inside | raised_names([*node.handlers, *node.orelse, *node.finalbody])
        elif isinstance(node, ast.Raise) and node.exc is not None:
            made = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            found.add(ast.unparse(made).split(".")[-1])
        elif not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            found |= raised_names(ast.iter_child_nodes(node))
    return found


def caught_names(node: ast.Try) -> set[str]:
    """What its handlers catch and do not raise again."""
    found: set[str] = set()
    for handler in node.handlers:
        again = any(isinstance(each, ast.Raise) and each.exc is None for each in ast.walk(handler))
        if handler.type is not None and not again:
            found |= set(re.findall(r"\w+", ast.unparse(handler.type)))
    return found


def untold_errors(source: str) -> list[str]:
    """Errors of errata that a public function raises and that its docstring does not name."""
    found = []
    for name, function in public_functions(ast.parse(source).body):
        told = set(re.findall(r"\w+", ast.get_docstring(function) or ""))
        found += [f"{name}: {error}" for error in sorted(raised_names(function.body) & set(ERRORS) - told)]
    return found


def class_methods(sources: Iterable[str]) -> dict[str, tuple[set[str], list[str]]]:
    """Methods and bases of every class, by its name."""
    nodes = (node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef))
    return {
        node.name: ({one.name for one in node.body if isinstance(one, Function)}, [ast.unparse(b) for b in node.bases])
        for node in nodes
    }


def overrides(owner: str, method: str, classes: dict[str, tuple[set[str], list[str]]]) -> bool:
    """Whether a class above `owner`, of errata or of a library, has the method, and so the word on it."""
    for base in classes[owner][1] if owner in classes else []:
        own = classes[base][0] if base in classes else LIBRARY_METHODS.get(base, set())
        if method in own or overrides(base, method, classes):
            return True
    return False


def is_plain_property(function: Function) -> bool:
    """A property of one statement, which says itself what it is."""
    names = {ast.unparse(decorator).split(".")[-1] for decorator in function.decorator_list}
    return bool({"property", "cached_property", "setter"} & names) and len(function.body) == 1


def undocumented(source: str, classes: dict[str, tuple[set[str], list[str]]]) -> list[str]:
    """Public functions without a docstring that owe one."""
    found = []
    for name, function in public_functions(ast.parse(source).body):
        owner = name.rpartition(".")[0].rpartition(".")[2]
        owes = not is_plain_property(function) and not overrides(owner, function.name, classes)
        if owes and ast.get_docstring(function) is None:
            found.append(name)
    return found


ERRORS = errors_and_bases(MODULES["errata.errors"].read_text())


def test_docstrings_name_the_errors_that_are_raised():
    assert "ConfigError" in ERRORS
    found = [f"{name}.{each}" for name, path in MODULES.items() for each in untold_errors(path.read_text())]
    assert found == []


def test_public_functions_have_a_docstring():
    classes = class_methods(path.read_text() for path in MODULES.values())
    found = [f"{name}.{each}" for name, path in MODULES.items() for each in undocumented(path.read_text(), classes)]
    assert found == []


def test_the_rules_of_docstrings_see_what_they_should():
    """The two checks above on code that breaks them."""
    assert ERRORS["CorruptFileError"] >= {"CorruptFileError", "StorageError", "ErrataError"}
    source = '''
def quiet(x):
    raise ConfigError("x")
def told(x):
    """Raises ConfigError where x is wrong."""
    raise errors.ConfigError("x") from None
def half(x):
    """InputError for what cannot be."""
    if x:
        raise ModelError
    raise InputError("x")
def caught(x):
    """Both at once."""
    try:
        raise CorruptFileError("x")
    except (OSError, StorageError):
        return None
def passed_on(x):
    """Another in its place."""
    try:
        raise CorruptFileError("x")
    except StorageError as error:
        raise PatchError("y") from error
def again(x):
    """And once more."""
    try:
        raise CorruptFileError("x")
    except StorageError:
        raise
def outer(x):
    """What is within it speaks for itself."""
    def inner():
        raise ConfigError("x")
    raise ValueError("x")
def _private(x):
    raise ConfigError("x")
class Shape(Solid):
    def volume(self):
        raise InputError("x")
    def area(self): ...
    def name(self):
        return "shape"
    @property
    def side(self):
        return 1
    @property
    def corner(self):
        x = 1
        return x
class Cube(Shape):
    def area(self):
        return 6
class Net(nn.Module):
    def forward(self): ...
    def backward(self): ...
class _Hidden:
    def area(self): ...
'''
    assert untold_errors(source) == [
        "quiet: ConfigError", "half: ModelError", "passed_on: PatchError", "again: CorruptFileError",
        "Shape.volume: InputError",
    ]  # fmt: skip
    solid = "class Solid:\n    def name(self):\n        return ''"
    assert undocumented(source, class_methods([source, solid])) == [
        "quiet", "Shape.volume", "Shape.area", "Shape.corner", "Net.backward",
    ]  # fmt: skip


def functions_of(source: str) -> list[tuple[str, int, int]]:
    """Name, lines and parameters (but self and cls) of every function."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            named = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            count = len(named) - (named[:1] in (["self"], ["cls"]))
            found.append((node.name, (node.end_lineno or 0) - node.lineno + 1, count))
    return found


def ninth_tenth(numbers: list[int]) -> int:
    return sorted(numbers)[int(0.9 * (len(numbers) - 1))]


def test_sizes():
    """Modules, functions and parameter lists of a size that a reader holds; a command's signature is its options."""
    modules = {name: path.read_text() for name, path in MODULES.items() if path.stem[:2] != "__"}
    lines = {name: text.count("\n") for name, text in modules.items()}
    assert {name: count for name, count in lines.items() if count > 350} == {}
    assert 100 <= statistics.median(lines.values()) <= 180
    functions = {name: functions_of(text) for name, text in modules.items()}
    every = [one for own in functions.values() for one in own]
    lengths, parameters = [length for _, length, _ in every], [count for *_, count in every]
    assert statistics.median(lengths) <= 8
    assert ninth_tenth(lengths) <= 20
    assert ninth_tenth(parameters) <= 4
    outside = {name: own for name, own in functions.items() if top(name) != "cli"}
    assert [(name, one) for name, own in outside.items() for one in own if one[2] > MOST_PARAMETERS] == []


def test_no_two_modules_share_a_name():
    names = [name.rpartition(".")[2] for name, path in MODULES.items() if path.stem[:2] != "__"]
    assert sorted({name for name in names if names.count(name) > 1}) == []
