"""How long second moments will take on this machine, from a short trial."""

import time
from collections.abc import Callable

from errata.core.moments import zero_panels
from errata.models.run.generate import sample_ids
from errata.stats.one_pass import add_batch_
from errata.stats.running import RunningSum
from errata.stats.samples import SampledTokens, start_token
from errata.stats.second_moments import MomentRequest
from errata.stats.token_stream import Span

_TRIAL_LENGTH = 128
_TRIAL_ROWS = 4
_SAMPLED_ROWS, _SAMPLED_STEPS = 32, 4


def seconds_per_token(request: MomentRequest) -> float:
    """Seconds for each token that has still to be counted, of all layers in one pass; sampling included."""
    lm = request.lm
    length = min(_TRIAL_LENGTH, lm.max_tokens)
    token = next(iter(lm.tokenizer.get_vocab().values()))
    batch = [Span((token,) * length, 0)] * _TRIAL_ROWS
    sums = [RunningSum(layer, zero_panels(lm.d_mlp, device=lm.down_weight(layer).device)) for layer in request.layers]

    def trial() -> None:
        add_batch_(sums, lm, batch)
        float(sums[0].panels[0][0, 0])  # waits for the device

    seconds = _second_run(trial) / (length * _TRIAL_ROWS)
    if isinstance(request.source, SampledTokens):
        seconds += _second_run(lambda: _sample(request)) / (_SAMPLED_ROWS * _SAMPLED_STEPS)
    return seconds


def _sample(request: MomentRequest) -> None:
    prompts = [[start_token(request.lm)]] * _SAMPLED_ROWS
    sample_ids(request.lm, prompts, new_tokens=_SAMPLED_STEPS, top_k=None, seed=0, batch_size=_SAMPLED_ROWS)


def _second_run(work: Callable[[], None]) -> float:
    """The first run pays for what is set up once."""
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
