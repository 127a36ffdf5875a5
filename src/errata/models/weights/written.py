"""What a down projection must write so that the residual stream gets what is wanted: one answer for every family.

Of what the matrix writes, y, the stream gets c: y itself in most families, a multiple of it (granite), or with a norm
behind the MLP (gemma2, gemma3_text, olmo2) c = g ⊙ v, v = y/√(mean y² + ε). There only the contributions whose v has
y's own length can be reached, an ellipsoid; and gains differ a thousandfold from channel to channel, so that where one
is nearly 0 no change of y is worth its price. With the wanted c + δ, and a τ that is small beside the usual g²,

    v* = argmin ‖g ⊙ v − (c + δ)‖² + τ‖v − v₀‖²  over ‖v‖ = ‖v₀‖,    so that v* = ((g² + τ)v₀ + gδ)/(g² + τ + μ)

with the one μ that gives this length (Moré and Sorensen 1983). To be written is y* = v*·√(mean y² + ε): y's own root
mean square, since any other gives the same contribution.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from errata.models.language_model import LanguageModel

# τ in units of the median gain's square: a channel of a tenth of the usual gain moves half as far as is asked.
_KEPT = 0.01
# Of an interval that starts no wider than the gains' squares; float64 has no more to give after 60.
_BISECTIONS = 100
# Far above any ε, so that a norm's answer to it shows the gains alone.
_PROBE = 1e4


@dataclass(frozen=True)
class Writing:
    """residual: what the matrix must write beside what it writes, fact by fact.

    lost: ‖contribution then − what was wanted‖/‖what was asked‖, the share that no output of the matrix can give.
    """

    residual: Float64[Tensor, "fact d_model"]
    lost: Float64[Tensor, " fact"]


@torch.no_grad()
def gains(lm: LanguageModel, layer: int) -> Float64[Tensor, " d_model"] | None:
    """g of the norm behind this layer's MLP, the residual multiplier included; None where no norm is there."""
    if not lm.family.post_norm:
        return None
    probe = torch.full((1, lm.d_model), _PROBE, device=lm.device_of(layer))
    return lm.contribution(layer, probe, attention=False)[0].double()


def usual_contribution(lm: LanguageModel, layer: int) -> Float64[Tensor, " d_model"] | None:
    """The usual size of each channel of what this layer's MLP adds to the stream; None where no norm says it."""
    gain = gains(lm, layer)
    return None if gain is None else _weights(gain).sqrt()


@torch.no_grad()
def contributed(
    lm: LanguageModel, layer: int, written: Float[Tensor, "fact d_model"]
) -> Float64[Tensor, "fact d_model"]:
    """What joins the stream of what this layer's down projection writes, in float64 and in no narrower float32."""
    return lm.contribution(layer, written.float(), attention=False).double()


@torch.no_grad()
def to_write(
    lm: LanguageModel,
    layer: int,
    written: Float[Tensor, "fact d_model"],
    asked: Float64[Tensor, "fact d_model"],
) -> Writing:
    """What `layer` must write more so that the stream gets `asked` more, or the nearest to it that can be had.

    `written`: what the matrix writes now, before any norm.
    """
    gain = gains(lm, layer)
    if gain is None:
        return Writing(asked / lm.residual_scale, asked.new_zeros(len(asked)))
    now = written.double()
    contribution = contributed(lm, layer, written)
    length = _length(now, contribution, gain)
    unit = now / length
    then = _on_sphere(unit, asked, gain)
    lost = (gain * then - contribution - asked).norm(dim=1) / asked.norm(dim=1).clamp_min(1e-300)
    return Writing((then - unit) * length, lost)


@torch.no_grad()
def direction_to_write(
    lm: LanguageModel,
    layer: int,
    written: Float[Tensor, "fact d_model"] | None,
    direction: Float64[Tensor, "fact d_model"],
) -> Float64[Tensor, "fact d_model"]:
    """What a small step of the output must be for one of the stream along `direction`: the limit of `to_write`.

    For methods that choose how far to go afterwards. Behind a norm, a part along what is written already is lost; only
    there is `written` needed.
    """
    gain = gains(lm, layer)
    if gain is None:
        return direction / lm.residual_scale
    assert written is not None, "where a norm follows, a step depends on what is written"
    now = written.double()
    length = _length(now, contributed(lm, layer, written), gain)
    unit, weight = now / length, _weights(gain)
    free, along = gain * direction / weight, unit / weight
    shortening = (unit * free).sum(1, keepdim=True) / (unit * along).sum(1, keepdim=True)
    return (free - shortening * along) * length


def _length(
    written: Float64[Tensor, "fact d_model"],
    contribution: Float64[Tensor, "fact d_model"],
    gain: Float64[Tensor, " d_model"],
) -> Float64[Tensor, "fact 1"]:
    """√(mean y² + ε), by least squares from what the norm made of y (g ⊙ y = length · c), whatever its ε is called."""
    scaled = gain * written
    square = (contribution**2).sum(1, keepdim=True).clamp_min(1e-300)
    return (scaled * contribution).sum(1, keepdim=True) / square


def _on_sphere(
    unit: Float64[Tensor, "fact d_model"], asked: Float64[Tensor, "fact d_model"], gain: Float64[Tensor, " d_model"]
) -> Float64[Tensor, "fact d_model"]:
    """v*, by bisection for μ: the length of v falls as μ grows."""
    weight = _weights(gain)
    pull = weight * unit + gain * asked
    radius = unit.norm(dim=1, keepdim=True)
    low = -weight.min().expand_as(radius)
    high = pull.norm(dim=1, keepdim=True) / radius
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_long = (pull / (weight + middle)).norm(dim=1, keepdim=True) > radius
        low, high = torch.where(is_long, middle, low), torch.where(is_long, high, middle)
    found = pull / (weight + high)
    return found * radius / found.norm(dim=1, keepdim=True)


def _weights(gain: Float64[Tensor, " d_model"]) -> Float64[Tensor, " d_model"]:
    """g² + τ."""
    return gain**2 + _KEPT * gain.abs().median() ** 2
