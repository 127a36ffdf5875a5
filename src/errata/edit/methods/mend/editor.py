"""The networks of MEND: what maps the factors of a fine-tuning gradient to those of an edit. Tensors in, tensors out.

For each token of an edit the gradient of a matrix is xᵀδ: x is what the matrix read, δ the loss gradient at what it
wrote (its VJP). Both are normalised by running statistics and go together through residual layers of low rank; the
edit is ΔW = −rate · Σ x̃ᵀδ̃ (Mitchell et al. 2021, section 3). The public code adds +rate · x̃ᵀδ̃ and starts uphill,
until training has turned the sign round; here an untrained editor is a step of normalised gradient descent.
"""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from errata.errors import ConfigError
from errata.models import Place

_EPSILON = 1e-7  # the public code's, added to the standard deviation


class RunningMoments:
    """Mean and variance of every feature over all rows seen, in float64 (on the CPU: not every device has it)."""

    def __init__(self, size: int) -> None:
        self.count = torch.zeros((), dtype=torch.float64)
        self.mean = torch.zeros(size, dtype=torch.float64)
        self.squares = torch.zeros(size, dtype=torch.float64)  # Σ (row − mean)²

    def observe(self, rows: Float[Tensor, "row size"]) -> None:
        """Take rows in: Chan's update for sums of squares, which does not cancel where the mean is large."""
        if not len(rows):
            return
        new = rows.detach().cpu().double()
        mean, total = new.mean(0), self.count + len(new)
        gap = mean - self.mean
        self.squares = self.squares + (new - mean).square().sum(0) + gap.square() * self.count * len(new) / total
        self.mean = self.mean + gap * len(new) / total
        self.count = total

    @property
    def std(self) -> Float64[Tensor, " size"]:
        """Standard deviation (n − 1); 0 until two rows were seen."""
        return (self.squares / (self.count - 1).clamp_min(1)).sqrt()

    def normalise(self, rows: Float[Tensor, "row size"]) -> Float[Tensor, "row size"]:
        """(row − mean) / std in float32; 0 for a feature that never varied: nobody trained what a change would do."""
        mean, std = self.mean.float().to(rows.device), self.std.float().to(rows.device)
        return torch.where(std > 0, (rows.float() - mean) / (std + _EPSILON), 0.0)


class ResidualLayer(nn.Module):
    """x + max(0, s ⊙ (UVx + b) + t): U starts at zero, so the layer at the identity; s and t are each matrix's own."""

    def __init__(self, width: int, rank: int, users: int, generator: torch.Generator) -> None:
        super().__init__()
        rank = min(rank, width)
        self.u = nn.Parameter(torch.zeros(width, rank))
        self.v = nn.Parameter(torch.randn(rank, width, generator=generator))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(users, width))
        self.shift = nn.Parameter(torch.zeros(users, width))

    def forward(self, rows: Float[Tensor, "row width"], user: int) -> Float[Tensor, "row width"]:
        inner = (rows @ self.v.T) @ self.u.T + self.bias
        # clamp, not relu: at 0, where everything starts, its gradient is 1.
        return rows + (inner * self.scale[user] + self.shift[user]).clamp(min=0)


class SharedNet(nn.Module):
    """One network for all matrices of one shape, with the statistics of what it reads."""

    def __init__(self, d_in: int, d_out: int, users: int, *, rank: int, depth: int, generator: torch.Generator) -> None:
        super().__init__()
        self.d_in = d_in
        self.inputs, self.vjps = RunningMoments(d_in), RunningMoments(d_out)
        self.layers = nn.ModuleList(ResidualLayer(d_in + d_out, rank, users, generator) for _ in range(depth))

    def forward(
        self, inputs: Float[Tensor, "row d_in"], vjps: Float[Tensor, "row d_out"], user: int
    ) -> tuple[Float[Tensor, "row d_in"], Float[Tensor, "row d_out"]]:
        rows = torch.cat([self.inputs.normalise(inputs), self.vjps.normalise(vjps)], dim=1)
        for layer in self.layers:
            rows = layer(rows, user)
        return rows[:, : self.d_in], rows[:, self.d_in :]


class MendEditor(nn.Module):
    """An editor for the matrices at `shapes`, (d_in, d_out) of each; equal shapes share a network and its statistics.

    rates: the learned editing rate of each matrix, in the order of `places`.
    """

    def __init__(
        self, shapes: Mapping[Place, tuple[int, int]], *, rank: int, depth: int, start_rate: float, seed: int
    ) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.places = tuple(self.shapes)
        generator = torch.Generator().manual_seed(seed)
        users: dict[tuple[int, int], list[Place]] = {}
        for place, shape in self.shapes.items():
            users.setdefault(shape, []).append(place)
        self.user = {place: number for places in users.values() for number, place in enumerate(places)}
        self.nets = nn.ModuleDict(
            {
                _name(shape): SharedNet(*shape, len(places), rank=rank, depth=depth, generator=generator)
                for shape, places in users.items()
            }
        )
        self.rates = nn.Parameter(torch.full((len(self.places),), start_rate))

    def net(self, place: Place) -> SharedNet:
        """The network of this matrix's shape."""
        return self.nets[_name(self.shapes[place])]  # type: ignore[return-value]

    def forward(
        self, place: Place, inputs: Float[Tensor, "row d_in"], vjps: Float[Tensor, "row d_out"]
    ) -> tuple[Float[Tensor, "row d_in"], Float[Tensor, "row d_out"]]:
        """Factors L, R of the edit LᵀR = −rate · Σ x̃ᵀδ̃ of one matrix, a row for each token."""
        left, right = self.net(place)(inputs, vjps, self.user[place])
        return left, -self.rates[self.places.index(place)] * right

    def observe(self, place: Place, inputs: Float[Tensor, "row d_in"], vjps: Float[Tensor, "row d_out"]) -> None:
        """Let the statistics take in what a training step reads."""
        net = self.net(place)
        net.inputs.observe(inputs)
        net.vjps.observe(vjps)

    def network_parameters(self) -> list[nn.Parameter]:
        """All parameters but the editing rates."""
        return list(self.nets.parameters())

    def tensors(self) -> dict[str, Tensor]:
        """Everything that makes the editor up, by name: parameters in float32, statistics in float64."""
        return {**{name: parameter.detach() for name, parameter in self.named_parameters()}, **self.statistics()}

    def statistics(self) -> dict[str, Tensor]:
        """The running statistics by name, as they are now: `observe` makes new tensors and leaves these alone."""
        return {f"{shape}.{part}": getattr(moments, part) for shape, moments in self._moments() for part in _PARTS}

    def set_statistics_(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the running statistics from `tensors`, which may hold others besides."""
        for shape, moments in self._moments():
            for part in _PARTS:
                setattr(moments, part, tensors[f"{shape}.{part}"].double().cpu().clone())

    @torch.no_grad()
    def load_tensors_(self, tensors: Mapping[str, Tensor]) -> None:
        """Take all values from `tensors`; ConfigError where names or shapes are not this editor's."""
        own = self.tensors()
        if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in tensors.items()}:
            raise ConfigError("These tensors are those of another editor: their names or shapes differ.")
        for name, parameter in self.named_parameters():
            parameter.copy_(tensors[name])
        self.set_statistics_(tensors)

    def _moments(self) -> Iterable[tuple[str, RunningMoments]]:
        for name, net in self.nets.items():
            assert isinstance(net, SharedNet)
            yield from ((f"statistics.{name}.inputs", net.inputs), (f"statistics.{name}.vjps", net.vjps))


_PARTS = ("count", "mean", "squares")


def _name(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
