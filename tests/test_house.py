"""The rules of the house: what may import what, what never appears in the code, what `import errata` may cost."""

import ast
import importlib
import re
import subprocess
import sys
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
    "edit": BASE | {"models", "stats", "patches"},
    "evaluate": BASE | {"models"},
    "views": {"errors", "core", "store"},
    "lens": BASE | {"models", "patches", "views"},
    "tracing": BASE | {"models", "patches", "views"},
    "jobs": BASE | {"models", "patches", "views"} | METHODS,
    "cli": BASE | {"models", "patches", "jobs", "views"} | METHODS,
    "__main__": {"cli"},
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


def imports(source: str, modules: set[str]) -> set[str]:
    """Modules of errata that a module imports, at its top or inside a function."""
    found: set[str] = set()
    for node in run_time_nodes(ast.parse(source)):
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


def breaches(graph: dict[str, set[str]]) -> list[str]:
    found = []
    for module, imported in graph.items():
        own = top(module)
        if not own:  # errata/__init__ offers names of every package, lazily
            continue
        if own not in MAY_IMPORT:
            found.append(f"{module}: no row for {own!r} in MAY_IMPORT")
            continue
        allowed = MAY_IMPORT[own] | {own, ""}
        found += [f"{module} imports {other}" for other in sorted(imported) if top(other) not in allowed]
    return found


def test_dependencies_point_one_way(graph):
    assert len(graph) > 10
    assert breaches(graph) == []


def test_no_import_cycles(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' → '.join(error.args[1])}")


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
