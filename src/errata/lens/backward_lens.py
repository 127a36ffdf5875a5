"""The Backward Lens (Katz et al. 2024): the gradient of one prompt, by its factors, read in the vocabulary.

One forward and one backward give, for every matrix and layer, what it read (x_i) and the loss gradient at what it
wrote (δ_i); its weight gradient is Σ x_iᵀδ_i and is never formed unless asked for. Where a family has a norm behind its
MLPs or attention, both are before that norm, where the matrix is; the gradient is right whatever follows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from errata.core.words import counted, printable, shortened
from errata.errors import InputError
from errata.lens.losses import first_token, prompt_ids
from errata.lens.modes import Reader
from errata.lens.neurons import NeuronTable, neuron_table
from errata.lens.prompt_gradient import PromptGradient
from errata.lens.step import sgd_patch
from errata.lens.table import FORWARD_SOURCES, Extremes, LensTable, read_extremes, read_table, token_texts
from errata.models import (
    WRITING,
    Place,
    mlp_matrices,
    pad_right,
    run_taps,
)
from errata.models.run.backward import widened
from errata.models.text.segments import segments
from errata.patches import Patch

if TYPE_CHECKING:
    from errata.views.grid import Grid


@dataclass(frozen=True, eq=False, repr=False)
class BackwardLens(PromptGradient):
    """One prompt's gradient read in the vocabulary, and the states that it was taken at.

    states: the residual stream entering layer 0, 1, … and leaving the last; state_vjps: the loss gradient there.
    mlp_out, attention_out: what each block's MLP and attention added to the stream (after a post-norm and a residual
    multiplier, where a family has them).
    answer: the model's own next token after the prompt.  attention, attention_vjps: maps and their gradients, where
    they were asked for.
    """

    mode: str
    subject: str | None
    loss: float
    answer: int
    states: Float[Tensor, "state pos d_model"]
    state_vjps: Float[Tensor, "state pos d_model"]
    mlp_out: Float[Tensor, "layer pos d_model"]
    attention_out: Float[Tensor, "layer pos d_model"]
    attention: Mapping[int, Float[Tensor, "head pos pos"]] = field(default_factory=dict)
    attention_vjps: Mapping[int, Float[Tensor, "head pos pos"]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """What each position says."""
        texts = token_texts(Reader(self.lm), sorted(set(self.example.ids)))
        return tuple(texts[i] for i in self.example.ids)

    @property
    def answer_text(self) -> str:
        """The model's own next token after the prompt, as text."""
        return token_texts(Reader(self.lm), [self.answer])[self.answer]

    @property
    def target(self) -> int | None:
        """The target's first token."""
        return self.example.target_ids[0] if self.example.target_ids else None

    def segments(self) -> Mapping[str, tuple[int, ...]]:
        """Positions of each segment of the prompt, by name."""
        e = self.example
        return segments(e.encoding, e.searched, e.prompt_length, len(e.ids), self.subject)

    def project(
        self,
        matrix: str = "down",
        *,
        mode: str | None = None,
        sign: str = "vjp",
        top: int = 10,
        track: Sequence[int | str] | None = None,
    ) -> LensTable:
        """Every layer and position of one matrix in the vocabulary.

        Read are the vectors of d_model numbers that span its gradient: δ_i of what writes to the residual stream
        (down, o), x_i of what reads it. An update moves along −δ, so the *least* probable tokens of δ are promoted;
        `sign="-vjp"` turns δ round. `track`: tokens whose rank is kept, as ids or texts (the first token counts);
        default: the target and the model's own answer. A text is joined to the prompt as the target is, so that "Paris"
        and " Paris" mean the same. Raises InputError for another sign, and for "-vjp" where x is read.
        """
        if sign not in ("vjp", "-vjp"):
            raise InputError(f"sign={sign!r}: choose 'vjp' or '-vjp'.")
        writes = matrix in WRITING
        if not writes and sign == "-vjp":
            raise InputError(f"sign='-vjp' turns VJPs round; of {matrix!r} its inputs are read. Leave sign out.")
        source = "vjp" if writes else "input"
        return read_table(
            Reader(self.lm, mode or self.mode),
            self.vectors(matrix, source),
            layers=range(self.num_layers), tokens=self.tokens, matrix=matrix, source=source, negate=sign == "-vjp",
            top=_top(top), tracked=self._tracked(track), share=self.share(matrix),
        )  # fmt: skip

    def forward(
        self,
        source: str = "residual",
        *,
        mode: str | None = None,
        top: int = 10,
        track: Sequence[int | str] | None = None,
    ) -> LensTable:
        """The logit lens on the same grid: the residual stream leaving each layer, or what MLP or attention gave.

        `source`: "residual", "mlp" or "attention"; InputError for another.
        """
        if source not in FORWARD_SOURCES:
            raise InputError(f"source={source!r}: choose {', '.join(FORWARD_SOURCES)}.")
        vectors = {"residual": self.states[1:], "mlp": self.mlp_out, "attention": self.attention_out}[source]
        return read_table(
            Reader(self.lm, mode or self.mode), vectors,
            layers=range(self.num_layers), tokens=self.tokens, matrix="", source=source, negate=False,
            top=_top(top), tracked=self._tracked(track),
        )  # fmt: skip

    def neurons(
        self,
        layer: int,
        matrix: str = "down",
        *,
        count: int | None = 100,
        among: Sequence[int] | None = None,
        top: int = 100,
        mode: str | None = None,
    ) -> NeuronTable:
        """The gradient neuron by neuron against the vectors that span it: norms, cosines, signed top-k overlap.

        `count`: how many neurons, those of the greatest norm first (None: all); or `among`: which places in that order.
        Raises InputError for a count below 1.
        """
        factors = self.of(layer, matrix)
        if count is not None and count < 1:
            raise InputError(f"count must be at least 1, found {count}; None is all of them.")
        chosen = slice(count) if among is None else list(among)
        return neuron_table(
            Reader(self.lm, mode or self.mode), factors, writes=matrix in WRITING, chosen=chosen, top=_top(top)
        )

    def neuron_tokens(
        self, layer: int, matrix: str, neurons: Sequence[int], *, top: int = 10, mode: str | None = None
    ) -> list[Extremes]:
        """The gradients of single neurons as tokens: their most and least probable ones.

        Raises InputError for a neuron that the matrix does not have.
        """
        factors = self.of(layer, matrix)
        spanning, weights = (factors.vjps, factors.inputs) if matrix in WRITING else (factors.inputs, factors.vjps)
        if not all(0 <= i < weights.shape[1] for i in neurons):
            raise InputError(f"neurons={list(neurons)[:5]}: {matrix!r} has neurons 0–{weights.shape[1] - 1}.")
        return read_extremes(Reader(self.lm, mode or self.mode), weights[:, list(neurons)].T @ spanning, top=_top(top))

    def predict_shift(
        self,
        prompt: str | None = None,
        *,
        lr: float = 1.0,
        matrices: Sequence[str] = ("down",),
        layers: Sequence[int] | None = None,
    ) -> dict[Place, Float[Tensor, "pos d_out"]]:
        """What one SGD step would change in each matrix's output, from the factors alone, on another prompt or its own.

        Δz' = −lr Σ_i (x'·x_i) δ_i: an update is linear attention with keys x_i and values −lr·δ_i. Each matrix by
        itself, with the inputs that the unedited model gives it. Raises InputError for a prompt that cannot be run.
        """
        factors = {Place(i, name): self.of(i, name) for name in matrices for i in self.chosen_layers(layers)}
        if prompt is None:
            inputs = {place: one.inputs for place, one in factors.items()}
        else:
            ids, mask = pad_right([prompt_ids(self.lm, prompt)], device=self.lm.embed_device)
            tapped, _ = run_taps(self.lm, ids, mask, list(factors))
            inputs = {place: tapped[place][0].to(one.inputs) for place, one in factors.items()}
        return {place: -lr * (inputs[place] @ one.inputs.T) @ one.vjps for place, one in factors.items()}

    def step(self, lr: float, *, matrices: Sequence[str] | None = None, layers: Sequence[int] | None = None) -> Patch:
        """One step of SGD, W ← W − lr·XᵀΔ, as a patch that applies and comes off (biases stay as they are).

        matrices: those of the MLP where none are named; q, k, v and o as well, of those that were tapped. Raises
        InputError where no layer or no matrix is named.
        """
        chosen = mlp_matrices(self.lm.family) if matrices is None else tuple(matrices)
        places = [Place(i, m) for i in self.chosen_layers(layers) for m in chosen]
        if not places:
            raise InputError("A step needs at least one layer and one matrix.")
        return sgd_patch(self.lm, self.example, {place: self.of(*place) for place in places}, lr)

    def reversed_attention(self, layer: int) -> Float[Tensor, "head pos pos"]:
        """∂loss/∂(attention scores), query × key: the map through which gradients flow back (Katz & Wolf 2024).

        R = A ⊙ (∂L/∂A − Σ_key A ⊙ ∂L/∂A), A being the forward attention. Raises InputError where A was not kept.
        """
        if layer not in self.attention:
            raise InputError("Attention maps were not kept; ask for them: backward_lens(..., attention=True).")
        probabilities, vjp = widened(self.attention[layer]), self.attention_vjps[layer]
        return probabilities * (vjp - (probabilities * vjp).sum(-1, keepdim=True))

    def grid(self, **options: Any) -> "Grid":
        """The lens as plain data for the views: see reports/lens_grid.py for the options."""
        from errata.reports.lens_grid import lens_grid

        return lens_grid(self, **options)

    def __repr__(self) -> str:
        prompt = printable(shortened(self.example.prompt, 80))
        return (
            f"BackwardLens of {self.lm.name} at “{prompt}”: loss “{self.example.loss_name}” = {self.loss:.4g}.\n"
            f"{counted(self.num_layers, 'layer')}, {counted(len(self.example.ids), 'token')}; "
            f"tapped: {', '.join(self.matrices)}."
        )

    def _repr_html_(self) -> str:
        from errata.views.html import notebook

        return notebook(self.grid(modes=[self.mode]))

    def _tracked(self, track: Sequence[int | str] | None) -> tuple[int, ...]:
        if track is None:
            found = [self.target, self.answer]
        else:
            found = [self._token(one) for one in ([track] if isinstance(track, str) else track)]
        return tuple(dict.fromkeys(i for i in found if i is not None))

    def _token(self, one: int | str) -> int:
        if isinstance(one, str):
            return first_token(self.lm, self.example.prompt, one)
        if not 0 <= one < self.lm.num_tokens:
            raise InputError(f"track={one}: token ids are 0–{self.lm.num_tokens - 1}.")
        return one


def _top(top: int) -> int:
    if top < 1:
        raise InputError(f"top must be at least 1, found {top}.")
    return top
