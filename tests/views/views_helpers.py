"""A small grid with everything that is hard to show."""

from errata.views.grid import Grid, Sheet, Tracked

TOKENS = ["The", " Eiffel", " </script><b>x", " $x^2$", " 巴黎", "\n", "\u202eabc"]
TEXTS = [" Paris", "<img src=x onerror=alert(1)>", "$\\alpha$", "المدينة", "\x07", "👩‍🚀", " Rome", "a" * 40]


def small_grid(layers=4, tokens=TOKENS, **changes) -> Grid:
    n = len(tokens)

    def cells(make):
        return [[make(layer, at) for at in range(n)] for layer in range(layers)]

    def sheet(side, name, mode, sign, shows, offset):
        return Sheet(
            side=side,
            name=name,
            source="vjp" if side == "backward" else name,
            mode=mode,
            sign=sign,
            shows=shows,
            top=cells(lambda i, j: [(i + j + offset + k) % len(TEXTS) for k in range(3)]),
            top_values=cells(lambda i, _: [3.0, 2.0, 1.0 + i]),
            bottom=cells(lambda i, j: [(i * j + offset + 1 + k) % len(TEXTS) for k in range(3)]),
            bottom_values=cells(lambda _, j: [-3.0, -2.0, -1.0 - j]),
            norm=cells(lambda i, j: 0.0 if is_null(i, j) else 0.01 * 3 ** (i + j)),
            share=cells(lambda *_: 1 / n) if side == "backward" else None,
            null=cells(is_null),
            tracked=[Tracked(text=" Rome", ranks=cells(lambda i, j: 100 * i + j), ties=cells(lambda _, j: 1 + j % 2))],
        )

    def is_null(i, j):
        return i == layers - 1 and j < n - 1

    sheets = [
        sheet("backward", "down", "paper", "vjp", "bottom", 0),
        sheet("backward", "down", "paper", "-vjp", "top", 1),
        sheet("backward", "down", "raw", "vjp", "bottom", 2),
        sheet("backward", "up", "paper", "vjp", "top", 3),
        sheet("forward", "residual", "paper", "vjp", "top", 4),
        sheet("forward", "residual", "raw", "vjp", "top", 6),
        sheet("forward", "mlp", "paper", "vjp", "top", 5),
    ]
    plain = {
        "title": "The <Eiffel> & “Tower” → Rome",
        "subtitle": "tiny, loss",
        "tokens": tokens,
        "layers": list(range(layers)),
        "texts": TEXTS,
        "sheets": sheets,
        "vocabulary": 500,
        "segments": {"last": [n - 1], "first subject": [1]},
        "notes": ["A note <i>with</i> markup."],
    }
    return Grid(**{**plain, **changes})
