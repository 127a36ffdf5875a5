"""What is traced and how: the options of causal tracing."""

from dataclasses import dataclass

from errata.core.words import counted
from errata.errors import ConfigError

# One of KINDS or SEVERED.
Kind = str

# One state restored: a layer's output, or what the MLPs or attentions of a window of layers write.
KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attention")
# The layer's output restored while the same token's MLPs (attentions) write what they wrote in the corrupted run.
SEVERED: tuple[Kind, ...] = ("mlp severed", "attention severed")
CORRUPTIONS = ("gaussian", "uniform", "swap", "zero")
WHERE_SEVERED = ("none", "last subject", "all")
TOKENS = ("all", "last subject")


@dataclass(frozen=True, kw_only=True)
class TraceConfig:
    """The settings of a trace; the defaults are the published ones (Meng et al. 2022, ROME).

    kinds: what is restored; of an MLP or attention its last map's output, before any norm behind it.  tokens: at which
    tokens: all from the subject on, or the subject's last one alone, which is all that `propose_layers` needs.
    severed: at which of them the severed variants are run.  samples: corrupted runs that a score is the mean of.
    noise: its standard deviation in those of the subjects' token embeddings.
    window: layers whose MLPs or attentions are restored together, centred at a layer.  corruption: "gaussian" and
    "uniform" noise of that standard deviation, "swap" (another subject's embeddings) or "zero".  seed: of the noise,
    one and the same for all restorations and all facts.  exact: restore state by state; without it there is the
    attribution only.  batch_tokens: tokens run at a time, one that is only attended to as a sixteenth; bounds
    memory and changes nothing else but rounding.
    """

    kinds: tuple[Kind, ...] = KINDS
    tokens: str = "all"
    severed: str = "last subject"
    samples: int = 10
    noise: float = 3.0
    window: int = 10
    corruption: str = "gaussian"
    seed: int = 0
    exact: bool = True
    batch_tokens: int = 2048

    def __post_init__(self) -> None:
        if isinstance(self.kinds, str) or not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ConfigError(f"kinds={self.kinds!r}: choose one or more of {', '.join(KINDS)}.")
        if len(set(self.kinds)) != len(self.kinds):
            raise ConfigError(f"kinds={self.kinds!r}: each may be named once.")
        if self.severed not in WHERE_SEVERED:
            raise ConfigError(f"severed={self.severed!r}: choose {', '.join(WHERE_SEVERED)}.")
        if self.tokens not in TOKENS:
            raise ConfigError(f"tokens={self.tokens!r}: choose {', '.join(TOKENS)}.")
        if self.corruption not in CORRUPTIONS:
            raise ConfigError(f"corruption={self.corruption!r}: choose {', '.join(CORRUPTIONS)}.")
        if not 0 < self.noise < float("inf"):
            raise ConfigError(f"noise must be positive, found {self.noise}.")
        for name in ("samples", "window", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}.")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, found {self.seed}.")

    @property
    def restored(self) -> tuple[Kind, ...]:
        """Everything that is restored, the severed variants of the hidden state included."""
        with_severed = self.severed != "none" and "hidden" in self.kinds
        return (*self.kinds, *SEVERED) if with_severed else self.kinds


def window_of(layer: int, window: int, num_layers: int) -> range:
    """The layers of a window centred at `layer`, cut at both ends; an even one has its extra layer below."""
    return range(max(0, layer - window // 2), min(num_layers, layer + (window + 1) // 2))


def describe(config: TraceConfig, std: float, samples: int) -> str:
    """The corruption in words."""
    runs = counted(samples, "run")
    if config.corruption in ("gaussian", "uniform"):
        return f"{runs} of {config.corruption} noise, σ = {config.noise:g} × {std:.4g}, seed {config.seed}"
    return f"{runs}, the subject {'swapped' if config.corruption == 'swap' else 'zeroed'}"
