"""Losses with closed-form gradients with respect to the logits, in float32, without keeping intermediate copies."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def nll_and_gradient(
    logits: Float[Tensor, "row d_vocab"], targets: Int[Tensor, " row"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, "row d_vocab"]]:
    """Negative log-likelihood of each row's target (nats), and its gradient softmax(logits) − onehot(target).

    `logits` is overwritten when it is float32 already: at d_vocab = 49,152 every copy costs as much as the head's GEMM
    saves.
    """
    logits = logits.float()
    log_total = logits.logsumexp(dim=-1)
    nll = log_total - logits.gather(-1, targets[:, None])[:, 0]
    gradient = logits.sub_(log_total[:, None]).exp_()
    gradient[torch.arange(len(targets), device=targets.device), targets] -= 1
    return nll, gradient


def kl_and_gradient(
    logits: Float[Tensor, "row d_vocab"], reference_log_probs: Float[Tensor, "row d_vocab"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, "row d_vocab"]]:
    """KL(p ‖ p₀) of each row (nats) and its gradient p ⊙ (log p − log p₀ − KL) with respect to p's logits."""
    log_probs = logits.float().log_softmax(dim=-1)
    probs = log_probs.exp()
    gap = log_probs.sub_(reference_log_probs)
    kl = (probs * gap).sum(dim=-1)
    return kl, probs.mul_(gap.sub_(kl[:, None]))
