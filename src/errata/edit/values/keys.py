"""Keys and residual states of an edit, layer after layer, on the model as far as it is edited by then.

MEMIT recomputes keys and the last layer's states after each edited layer (Meng et al. 2023, algorithm 1). Only layers
from the previous edited one on can have changed, only tokens up to the subject matter, and equal token rows have equal
keys: so hidden states are carried from one edited layer to the next, cut after the subject, each distinct row once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.edit.values.prompt_rows import PromptRow, key_rows, states_at
from errata.edit.values.shared_prefixes import SharedPrefixes
from errata.facts import Fact
from errata.models import LanguageModel, pad_right, run_layers

_CHUNK_TOKENS = 4096


@dataclass
class _Chunk:
    """Distinct rows of close lengths run together; `entering` are ids at first, later the hidden states carried on."""

    rows: list[PromptRow]
    entering: Int[Tensor, "row pos"] | Float[Tensor, "row pos d_model"]
    mask: Int[Tensor, "row pos"]
    positions: Int[Tensor, " row"]
    bare: Int[Tensor, " bare"]


def bare_keys(lm: LanguageModel, facts: Sequence[Fact], layer: int) -> Float[Tensor, "fact d_mlp"]:
    """The down projection's input at each subject's last token, of the bare prompts on the model as it is."""
    return KeyFrontier(lm, key_rows(lm, facts, ("",)), len(facts)).advance(layer, layer)[0]


class KeyFrontier:
    """The work's edge: every row's hidden states entering one layer, moved upward by `advance`.

    rows: one for each (fact, context), context 0 the bare prompt, each cut after the subject's last token.
    bare_weight: the bare prompt's share in a key, the other contexts having the rest in equal parts.
    reads: what `state_layer` is asked for, the residual stream it leaves ("block") or what its MLP writes ("mlp"),
    before any norm.  Keys are what down projections read.
    """

    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[PromptRow],
        num_facts: int,
        *,
        bare_weight: float = 0.5,
        reads: Literal["block", "mlp"] = "block",
    ) -> None:
        self.lm, self.num_facts, self.bare_weight, self.reads = lm, num_facts, bare_weight, reads
        distinct: dict[tuple[int, tuple[int, ...]], int] = {}
        self.row_of = {(r.fact, r.context): distinct.setdefault((r.context, r.ids), len(distinct)) for r in rows}
        self.num_contexts = 1 + max(r.context for r in rows)
        first = {distinct[(r.context, r.ids)]: r for r in reversed(rows)}
        self.rows = [first[i] for i in range(len(distinct))]
        self.beginnings = SharedPrefixes.of(lm, self.rows)
        self.first = 0
        self.bare_keys: Tensor | None = None
        self.chunks = self._chunks()
        self.order = {id(row): i for i, row in enumerate(self.rows)}

    def _chunks(self) -> list[_Chunk]:
        chunks: list[_Chunk] = []
        waiting: list[PromptRow] = []
        for row in sorted(self.rows, key=lambda r: len(self.beginnings.own_ids(r))):
            if waiting and (len(waiting) + 1) * len(self.beginnings.own_ids(row)) > _CHUNK_TOKENS:
                chunks.append(self._chunk(waiting))
                waiting = []
            waiting.append(row)
        return [*chunks, self._chunk(waiting)]

    def _chunk(self, rows: list[PromptRow]) -> _Chunk:
        device = self.lm.embed_device
        ids, mask = pad_right([self.beginnings.own_ids(row) for row in rows], device=device)
        positions = torch.tensor([self.beginnings.own_position(row) for row in rows], device=device)
        bare = torch.tensor([i for i, row in enumerate(rows) if row.context == 0], dtype=torch.long, device=device)
        return _Chunk(rows, ids, mask, positions, bare)

    @torch.no_grad()
    def advance(
        self, layer: int, state_layer: int
    ) -> tuple[Float[Tensor, "fact d_mlp"], Float[Tensor, "fact d_model"]]:
        """Keys at `layer`, means over contexts, and what is read of `state_layer` at the bare prompt's subject, on the
        model as it is now; the frontier then stands at `layer`'s input.
        """
        beginnings_kv = self.beginnings.run(stop=state_layer + 1, advance_to=layer)
        keys: list[Tensor | None] = [None] * len(self.rows)
        states: list[Tensor | None] = [None] * len(self.rows)
        for chunk in self.chunks:
            prefix = self.beginnings.select(beginnings_kv, chunk.rows)
            run = run_layers(
                self.lm, chunk.entering, chunk.mask,
                first=self.first, stop=layer + 1, prefix=prefix, tap_inputs=[layer], tap_down=[layer], end_at_down=True,
            )  # fmt: skip
            chunk.entering = run.layer_inputs[layer]
            for row, key in zip(chunk.rows, states_at(run.down_inputs[layer], chunk.positions), strict=True):
                keys[self.order[id(row)]] = key
            self._states(chunk, layer, state_layer, prefix, states)
        self.first = layer
        self.bare_keys = self._bare(keys)
        return self._mean_keys(torch.stack(keys).float()), self._bare(states)  # type: ignore[arg-type]

    @torch.no_grad()
    def written(self) -> Float[Tensor, "fact d_model"]:
        """What the layer where the frontier stands writes at the bare prompts' subjects, before any norm."""
        assert self.bare_keys is not None, "nothing is known before the first advance"
        return self.lm.down(self.first)(self.bare_keys)

    @torch.no_grad()
    def states(self, state_layer: int) -> Float[Tensor, "fact d_model"]:
        """What is read of `state_layer` at the bare prompt's subject, on the model as it is now."""
        beginnings_kv = self.beginnings.run(stop=state_layer + 1)
        states: list[Tensor | None] = [None] * len(self.rows)
        for chunk in self.chunks:
            self._states(chunk, self.first, state_layer, self.beginnings.select(beginnings_kv, chunk.rows), states)
        return self._bare(states)

    def _states(self, chunk: _Chunk, first: int, state_layer: int, prefix, states: list[Tensor | None]) -> None:
        if not len(chunk.bare):
            return
        rows = [chunk.rows[i] for i in chunk.bare.tolist()]
        wants_mlp = self.reads == "mlp"
        run = run_layers(
            self.lm, chunk.entering[chunk.bare.to(chunk.entering.device)], chunk.mask[chunk.bare],
            first=first, stop=state_layer + 1, prefix=None if prefix is None else prefix.rows(chunk.bare),
            tap_down=[state_layer] if wants_mlp else [], end_at_down=wants_mlp,
        )  # fmt: skip
        positions = chunk.positions[chunk.bare]
        if wants_mlp:
            read = self.lm.down(state_layer)(states_at(run.down_inputs[state_layer], positions))
        else:
            assert run.hidden is not None
            read = states_at(run.hidden, positions)
        for row, state in zip(rows, read, strict=True):
            states[self.order[id(row)]] = state

    def _bare(self, states: list[Tensor | None]) -> Float[Tensor, "fact d_model"]:
        return torch.stack([states[self.row_of[(i, 0)]] for i in range(self.num_facts)])  # type: ignore[arg-type]

    def _mean_keys(self, keys: Float[Tensor, "row d_mlp"]) -> Float[Tensor, "fact d_mlp"]:
        contexts = [keys[[self.row_of[(i, c)] for i in range(self.num_facts)]] for c in range(self.num_contexts)]
        if len(contexts) == 1:
            return contexts[0]
        return self.bare_weight * contexts[0] + (1 - self.bare_weight) * torch.stack(contexts[1:]).mean(0)
