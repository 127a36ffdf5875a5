"""Help pages: options under headings that say what they are about, examples that run, and exit codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Iterable

EXIT_CODES = {
    "0": "done",
    "1": "no meaningful result (numerics)",
    "2": "bad input; the message says what to do",
    "3": "a --require was not met",
    "130": "interrupted; the same command goes on from there",
}
# What a command says of a code in other words: its own edit may fail.
OWN_CODES = {name: {"1": "no meaningful result (numerics, or an edit that failed)"} for name in ("demo", "edit")}
# Nothing is computed here that could go wrong so.
WITHOUT_NUMERICS = frozenset({"init", "methods", "models"})

# Headings in the order of the page, with the parameters under them. A name means the same in every command.
GROUPS = {
    "What is asked": "prompt target subject answer chat matrix loss against reference mode sign top track tokens full",
    "Facts": "facts format limit skip_bad dataset data n first mixed singles valid",
    "Method": "method methods preset settings at_once in_batches one_by_one batch_size layers",
    "Time": "budget traced steps minutes",
    "Tracing": "kinds severed samples noise window corruption swap exact batch_tokens",
    "Experiments": "flip_prompts flip_layers neuron_prompts mechanism_prompts lr study",
    "Measuring": "evaluate require generate references text text_tokens",
    "Text and chance": "corpus field seed",
    "Model": "patch model device dtype revision",
    "Output": "out overwrite html pdf png json parquet lens max_layers verbose quiet",
}

# Of each command two lines that can be pasted, one after another, beside a facts.jsonl that `errata init` wrote.
EXAMPLES = {
    "demo": ("errata demo", "errata demo --out runs/my-demo --quiet"),
    "init": ("errata init facts.jsonl", "errata init my-facts.csv"),
    "edit": (
        "errata edit facts.jsonl --out runs/x",
        "errata edit facts.jsonl --out runs/y --method r-rome --one-by-one --set clamp=3",
    ),
    "ask": (
        'errata ask "The Colosseum is in the city of"',
        'errata ask "The Space Needle is in the city of" --patch runs/x --tokens 60 --full',
    ),
    "eval": ("errata eval runs/x", "errata eval runs/x --facts facts.jsonl --generate --out runs/x-eval"),
    "lens": (
        'errata lens "Lionel Messi plays for" --target " Paris"',
        'errata lens "The Colosseum is in the city of" --matrix up --html lens.html',
    ),
    "trace": (
        'errata trace "The Colosseum is in the city of" --subject Colosseum',
        "errata trace --facts facts.jsonl --tokens 'last subject' --out runs/trace",
    ),
    "reproduce": (
        "errata reproduce backward-lens --facts facts.jsonl --out runs/lens",
        "errata reproduce backward-lens --facts counterfact.json --n 50 --flip-layers 5 --out runs/lens-50",
    ),
    "bench": (
        "errata bench --data counterfact.json --methods memit,rome,ft --n 1,10,100 --out runs/bench",
        "errata bench --dataset zsre --data zsre.json --methods memit --n 100 --text-tokens 0 --out runs/zsre",
    ),
    "tune": (
        "errata tune --facts counterfact.json --out runs/tuned --budget 30",
        "errata tune --facts counterfact.json --out runs/ft --method ft --n 20 --budget 10 --trace 0",
    ),
    "stats": ("errata stats --layers 6-8 --tokens 20000", "errata stats --corpus texts.jsonl --tokens 100000"),
    "methods": ("errata methods", "errata methods memit"),
    "models": ("errata models", "errata models | grep llama"),
    "train mend": (
        "errata train mend --facts counterfact.json --out editor.safetensors --minutes 30",
        "errata train mend --facts counterfact.json --out small.safetensors --steps 200 --limit 300",
    ),
}


class GroupedCommand(TyperCommand):
    """A command whose help page has its options in groups, two examples and the exit codes."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        shown = [(param.name, param.param_type_name, param.get_help_record(ctx)) for param in self.get_params(ctx)]
        arguments = [record for _, kind, record in shown if kind == "argument" and record]
        options = {name: record for name, kind, record in shown if kind == "option" and record}
        _section(formatter, "Arguments", arguments)
        for title, names in GROUPS.items():
            _section(formatter, title, [options.pop(name) for name in names.split() if name in options])
        _section(formatter, "Other", options.values())

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Examples"):
            # As they are: wrapped, they could not be pasted.
            formatter.write("".join(f"  {line}\n" for line in EXAMPLES[_named(ctx)]))
        _section(formatter, "Exit codes", self._exit_codes(_named(ctx)))

    def _exit_codes(self, name: str) -> list[tuple[str, str]]:
        left_out = {"3"} - {"3" for param in self.params if param.name == "require"}
        left_out |= {"1"} if name in WITHOUT_NUMERICS else set()
        return [
            (code, text) for code, text in {**EXIT_CODES, **OWN_CODES.get(name, {})}.items() if code not in left_out
        ]


def _named(ctx: Any) -> str:
    """The command as the user names it: "edit", "train mend"."""
    within = _named(ctx.parent) if ctx.parent.parent else ""
    return f"{within} {ctx.info_name}".strip()


def _section(formatter: Any, title: str, rows: Iterable[tuple[str, str]]) -> None:
    if rows := list(rows):
        with formatter.section(title):
            formatter.write_dl(rows)
