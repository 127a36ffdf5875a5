"""Whether this tree's commands still give what those of another commit give, file for file and byte for byte.

    .venv/bin/python scripts/same_results.py COMMIT [--keep FOLDER] [--only edit,lens]

Both trees run every command on the same tiny model and facts, each with a home of its own. Times, memory, dates and
the folders' own names are masked; pictures are compared by name only. Prints what differs; exit code 1 if
anything does.
"""

import argparse
import csv
import difflib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SUBJECTS = ("Toyota", "Microsoft", "Rome", "Paris", "Canada", "Bill Gates")
RECORDS = [
    {
        "case_id": i,
        "prompt": f"{subject} is in",
        "subject": subject,
        "target_new": "China",
        "ground_truth": "Italy",
        "rephrase_prompt": f"I know that {subject} is in",
        "locality_prompt": "Canada is in",
        "locality_ground_truth": "Italy",
    }
    for i, subject in enumerate(SUBJECTS)
]
FACTS = [
    {
        "id": f"fact-{record['case_id']}",
        "subject": record["subject"],
        "prompt": record["prompt"],
        "target_new": record["target_new"],
        "target_true": record["ground_truth"],
        "paraphrases": [record["rephrase_prompt"]],
        "neighbours": [record["locality_prompt"]],
    }
    for record in RECORDS
]
SMALL = [
    "layers=1-2", "moment_tokens=300", "value_steps=6", "clamp=20", "weight_decay=0", "prefixes=2", "learning_rate=0.5",
]  # fmt: skip
ROME = ["layers=1", *SMALL[1:], "short_prefixes=0"]


def settings(fields: list[str], prefix: str = "") -> list[str]:
    return [word for field in fields for word in ("--set", f"{prefix}{field}")]


MODEL = ["--model", "../model"]
TEXT = ["--corpus", "text.txt"]
EDIT = ["edit", "facts.jsonl", *MODEL, *TEXT]
# By name, what is run; each in the same folder, after one another. Tuning stops by the clock and is left out.
COMMANDS: dict[str, list[str]] = {
    "edit": [*EDIT, "--out", "edit", *settings(SMALL)],
    "edit-one-by-one": [*EDIT, "--out", "one-by-one", "--method", "rome", "--one-by-one", *settings(ROME)],
    "edit-in-batches": [*EDIT, "--out", "batches", "--in-batches", "2", "--set", "past_keys=true", *settings(SMALL)],
    "edit-alphaedit": [*EDIT, "--out", "alphaedit", "--method", "alphaedit", *settings(SMALL)],
    "edit-fine-tuned": [*EDIT, "--out", "ft", "--method", "ft-l", "--set", "layers=1", "--set", "epochs=3"],
    "edit-shift": [*EDIT, "--out", "shift", "--method", "shift", "--set", "layers=2", "--set", "learning_rate=0.05"],
    "edit-kn": [*EDIT, "--out", "kn", "--method", "kn", "--set", "steps=4"],
    "eval": ["eval", "edit", *TEXT, "--text-tokens", "60", "--generate", "--out", "evaluation"],
    "ask": ["ask", "edit", "Toyota is in"],
    "bench": [
        "bench", "--methods", "memit,shift", "--n", "1,3", "--singles", "2", "--data", "counterfact.json", *MODEL,
        *TEXT, "--text", "held-out.txt", "--text-tokens", "40", "--out", "bench", *settings(SMALL, "memit."),
        "--set", "shift.layers=2", "--set", "shift.learning_rate=0.05",
    ],
    "stats": ["stats", *MODEL, *TEXT, "--layers", "1,2", "--tokens", "200"],
    "trace": ["trace", "Toyota is in", "--subject", "Toyota", *MODEL, "--samples", "3", "--html", "trace.html"],
    "trace-facts": ["trace", "--facts", "known.jsonl", *MODEL, "--samples", "3", "--out", "traces"],
    "lens": [
        "lens", "Toyota is in", "--target", " China", "--subject", "Toyota", *MODEL, "--html", "lens.html", "--json",
        "lens.json",
    ],
    "reproduce": [
        "reproduce", "backward-lens", "--facts", "facts.jsonl", *MODEL, "--n", "2", "--flip-prompts", "1",
        "--flip-layers", "1", "--mechanism-prompts", "1", "--neuron-prompts", "1", "--text-tokens", "50", *TEXT,
        "--out", "reproduced",
    ],
    "models": ["models"],
    "methods": ["methods", "memit"],
}  # fmt: skip
_TIMES = re.compile(
    r"\d[\d,.]* ?(s|ms|min|h|MiB|GiB|s/edit)\b|\d+ min \d+ s"
    r"|digest [0-9a-f]{12}\b|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(Z|[+-]\d\d:\d\d)?"
)
_MASKED_FIELDS = {"seconds", "kept_seconds", "peak_memory_mib", "created", "versions", "made", "time"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the results of this tree with those of a commit.")
    parser.add_argument("commit")
    parser.add_argument("--only", help="names of commands, comma-separated")
    parser.add_argument(
        "--keep", type=Path, help="where the results stay: the commit's are not made again where they lie there"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = (chosen.keep or Path(temporary)).resolve()
        base.mkdir(parents=True, exist_ok=True)
        names = list(COMMANDS) if chosen.only is None else chosen.only.split(",")
        if not (base / "before").exists():
            run_commit(base, chosen.commit, names)
        differences = compared(base / "before", run_all(base, "after", ROOT, names), names)
    print(*differences, sep="\n")
    print(f"{len(differences)} differences." if differences else "Everything is the same.")
    sys.exit(bool(differences))


def run_commit(base: Path, commit: str, names: list[str]) -> None:
    """What the commit gives, in `before`, which takes its name when all of it is there."""
    tree = base / "commit"
    git("worktree", "add", "--quiet", "--detach", "--force", tree, commit)
    try:
        make_inputs(base)
        run_all(base, "before.part", tree, names).rename(base / "before")
    finally:
        git("worktree", "remove", "--force", tree)


def git(*words: str | Path) -> None:
    subprocess.run(["git", "-C", ROOT, *words], check=True)


def make_inputs(base: Path) -> None:
    """The model, made once by this tree's tests."""
    code = (
        "from tiny import tiny_hf, tiny_tokenizer, knowing_hf; import sys;"
        "knowing_hf({'Toyota is in': 'Italy', 'Rome is in': 'Italy'}).save_pretrained(sys.argv[1]);"
        "tiny_tokenizer().save_pretrained(sys.argv[1])"
    )
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src")])
    subprocess.run([sys.executable, "-c", code, base / "model"], env=os.environ | {"PYTHONPATH": path}, check=True)


def run_all(base: Path, name: str, tree: Path, commands: list[str]) -> Path:
    """Every command with `tree`'s code; what it prints stands beside what it writes."""
    work = base / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    (work / "facts.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in FACTS))
    known = [fact for fact in FACTS if fact["subject"] in ("Toyota", "Rome")]
    (work / "known.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in known))
    (work / "counterfact.json").write_text(json.dumps(RECORDS))
    (work / "held-out.txt").write_text("\n\n".join(f"Number {i} is in Paris, in France." for i in range(20)))
    (work / "text.txt").write_text("\n\n".join(f"Number {i} is in Rome, the capital of Italy." for i in range(60)))
    environment = os.environ | {
        "PYTHONPATH": str(tree / "src"), "ERRATA_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1", "COLUMNS": "100",
    }  # fmt: skip
    for command in commands:
        print(f"{name}: {command}", file=sys.stderr, flush=True)
        words = [sys.executable, "-m", "errata", *COMMANDS[command]]
        done = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True, check=False)
        (work / f"{command}.out").write_text(f"exit code {done.returncode}\n{done.stdout}")
        if done.returncode not in (0, 1):
            sys.exit(f"{name}: errata {' '.join(COMMANDS[command])}\n{done.stderr}")
    return work


def compared(before: Path, after: Path, commands: list[str]) -> list[str]:
    """What differs, a line or a piece of a difference each; of some commands only what these wrote."""
    found = []
    names = [{path.relative_to(side) for path in side.rglob("*") if counts(path, side)} for side in (before, after)]
    if len(commands) == len(COMMANDS):
        found += [f"only before: {name}" for name in sorted(names[0] - names[1])]
    found += [f"only after: {name}" for name in sorted(names[1] - names[0])]
    for name in sorted(names[0] & names[1]):
        one, other = content(before / name), content(after / name)
        if one != other:
            lines = difflib.unified_diff(
                one.splitlines(), other.splitlines(), f"before/{name}", f"after/{name}", n=0, lineterm=""
            )
            found.append("\n".join(line[:300] for line in list(lines)[:12]))
    return found


def counts(path: Path, side: Path) -> bool:
    """Kept things are named by digests of the code's versions; what is read of them stands in the results."""
    return path.is_file() and not {"home", "records", "cells", "singles", "parts", "prompts"} & set(
        path.relative_to(side).parts
    )


def content(path: Path) -> str:
    """A file's text with all that differs from run to run masked; what is no text by its bytes' digest."""
    if path.suffix in {".png", ".pdf", ".svg"}:
        return ""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return json.dumps(masked(parquet.read_table(path).to_pylist()), indent=1, default=str)
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            return json.dumps({name: file.get_tensor(name).tolist() for name in sorted(file.keys())})
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        return json.dumps(masked(list(csv.DictReader(io.StringIO(text)))), indent=1)
    if path.suffix == ".json":
        return masked_text(json.dumps(masked(json.loads(text)), indent=1))
    return masked_text(text)


def masked(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if name not in _MASKED_FIELDS and "seconds_" not in name}
        return {name: _without_key(item) if name == "second_moments" else masked(item) for name, item in kept.items()}
    return [masked(item) for item in value] if isinstance(value, list) else value


def _without_key(moments: Any) -> Any:
    """What second moments are kept under depends on the versions of the code."""
    return {name: item for name, item in moments.items() if name != "digest"} if isinstance(moments, dict) else moments


def masked_text(text: str) -> str:
    plain = re.sub(r" +", " ", re.sub(r"-{3,}", "---", _TIMES.sub("TIME", text)))
    # The last column of a benchmark's tables but for the notes: seconds of an edit.
    return re.sub(r"\| [\d.]+ \| \|$", "| TIME | |", plain, flags=re.MULTILINE)


if __name__ == "__main__":
    main()
