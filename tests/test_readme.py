"""What README and docs tell to type runs as it stands, and what they point to is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# In the order in which a reader meets them: the patch that the README makes is used further on.
PAGES = ["README.md", "docs/editing.md", "docs/lens.md", "docs/tracing.md"]
FENCE = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


def blocks() -> list[tuple[str, str, str]]:
    """Page, language and text of every block that says its language; the others are not meant to be run here."""
    return [(page, *found) for page in PAGES for found in FENCE.findall((ROOT / page).read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder such as a reader sits in after `make setup`."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.mark.parametrize(("page", "language", "text"), blocks(), ids=lambda part: part if len(part) < 40 else "block")
def test_blocks_run(page: str, language: str, text: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if language == "python":
        monkeypatch.chdir(desk)
        exec(compile(text, page, "exec"), {"__name__": page})
        if "save_pretrained" in text:
            assert "Anna Keller" in plainly_continued(desk / "edited", "The chief executive of Brightwater Labs is")
        return
    started = "" if "activate" in text else ". .venv/bin/activate\n"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", started + text], cwd=desk, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if "ask" in text:
        assert "Anna Keller" in done.stdout.partition("with patch")[2], done.stdout


def plainly_continued(folder: Path, prompt: str) -> str:
    """What transformers alone makes of a prompt with the model in a folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    return tokenizer.decode(
        model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=6, do_sample=False)[0]
    )


def test_the_readme_says_how_to_take_the_edited_model_elsewhere() -> None:
    assert any("save_pretrained" in text for page, language, text in blocks() if page + language == "README.mdpython")


def test_the_readme_has_blocks_of_both_languages() -> None:
    assert {language for page, language, _ in blocks() if page == "README.md"} == {"bash", "python"}


@pytest.mark.parametrize("page", ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for target in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        assert (folder / target).exists(), f"{page} points to {target}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """errata as `pip install .` puts it into another environment, dependencies aside."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-compile", "--target", str(folder)]
    subprocess.run([*pip, "install", *options, str(ROOT)], check=True, capture_output=True)
    return folder


def test_an_installed_errata_brings_its_data_along(installed: Path) -> None:
    program = (
        "import errata; from errata.jobs.demo_job import demo_facts; from errata.stats import shipped_text;"
        "print(errata.__file__, len(demo_facts()), len(list(shipped_text().documents())) > 50)"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=installed, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [str(installed / "errata" / "__init__.py"), "12", "True"]
    assert (installed / "bin" / "errata").is_file()
