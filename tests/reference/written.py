"""What a down projection must write for a wanted contribution, one fact at a time, by one eigenvalue problem."""

import torch

from errata.models import LanguageModel

KEPT = 0.01


def gains_and_eps(lm: LanguageModel, layer: int):
    """g and ε of the norm behind the MLP as its class has them; Gemma's weights count from 1."""
    assert lm.family.mlp_post_norm
    norm = lm.layers[layer].get_submodule(lm.family.mlp_post_norm)
    weight = norm.weight.detach().double()  # type: ignore[union-attr]
    gemma = "Gemma" in type(norm).__name__
    eps = norm.eps if gemma else norm.variance_epsilon  # type: ignore[union-attr]
    return (1 + weight if gemma else weight), float(eps)  # type: ignore[arg-type]


def direction(lm: LanguageModel, layer: int, written, along):
    """What a tiny step of the output must be, for one of the stream, at the size of the whole."""
    tiny = 1e-7 * float(written.norm())
    return to_write(lm, layer, written, tiny * along) / tiny


def to_write(lm: LanguageModel, layer: int, written, asked):
    """What is to be written beside `written` so that the stream gets `asked` more, or the nearest that can be had.

    With A = diag(g² + τ) and b = Av₀ + gδ, v* solves (A + μI)v = b on the sphere ‖v‖ = r, where μ is the largest real
    eigenvalue of [[−A, bbᵀ/r²], [I, −A]] (Gander, Golub and von Matt 1989).
    """
    if lm.family.mlp_post_norm is None:
        return asked / getattr(lm.hf.config, "residual_multiplier", 1.0)
    gain, eps = gains_and_eps(lm, layer)
    now = written.double()
    length = (now.square().mean() + eps).sqrt()
    unit = now / length
    weight = gain**2 + KEPT * gain.abs().median() ** 2
    pull = weight * unit + gain * asked
    size = len(now)
    A, eye = torch.diag(weight), torch.eye(size, dtype=torch.float64)
    system = torch.cat([torch.cat([-A, torch.outer(pull, pull) / unit.square().sum()], 1), torch.cat([eye, -A], 1)])
    values = torch.linalg.eigvals(system)
    shift = values.real[values.imag.abs() < 1e-6 * values.abs().max()].max()
    return (pull / (weight + shift) - unit) * length
