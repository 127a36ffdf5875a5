"""Draw the README's pictures: `python docs/images/draw.py`. The grid is computed, the idea is drawn by hand.

Each picture has a background of its own and colours for light and dark, so that it can be read on either.
"""

from html import escape
from pathlib import Path

import errata

HERE = Path(__file__).resolve().parent
STYLE = """
  svg { font-family: ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif; }
  .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
  .back { fill: #ffffff; stroke: #d0d7de; } .ink { fill: #1f2328; } .soft { fill: #59636e; }
  .box { fill: #f6f8fa; stroke: #8c959f; } .line { stroke: #59636e; fill: none; } .tip { fill: #59636e; }
  .hit { fill: #1a7f64; } .hitink { fill: #ffffff; } .new { fill: #1a7f64; } .old { fill: #b3401f; }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117; stroke: #3d444d; } .ink { fill: #f0f6fc; } .soft { fill: #9198a1; }
    .box { fill: #161b22; stroke: #656c76; } .line { stroke: #9198a1; } .tip { fill: #9198a1; }
    .hit { fill: #3fb593; } .hitink { fill: #04150f; } .new { fill: #4cc9a4; } .old { fill: #f0886a; }
  }
"""


def picture(width: int, height: int, title: str, body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n"
        f'<rect class="back" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>\n{body}\n</svg>\n'
    )


def text(
    x: float, y: float, words: str, kind: str = "ink", size: float = 13, anchor: str = "start", **more: str
) -> str:
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return (
        f'<text class="{kind}" x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" '
        f'xml:space="preserve"{extra}>'
        f"{escape(words)}</text>"
    )


def grid() -> str:
    """What a step on one prompt would promote: the likeliest token of −δ of `down`, coloured by the target's rank."""
    prompt, target = "The capital city of Australia is", " Canberra"
    lm = errata.load("smollm2")
    table = errata.backward_lens(lm, prompt, target, subject="Australia").project("down", track=[target])
    (followed,) = table.tracked
    layers = [28, 26, 24, 22, 20, 18, 16]  # in the last, 29, only the last token has a gradient
    left, top, wide, high = 64, 78, 104, 30
    parts = [
        text(20, 28, "What does a gradient say?", size=16, font_weight="600"),
        text(
            20,
            48,
            "The token that one step towards “… Canberra” promotes most, by layer and position (SmolLM2-135M).",
            "soft",
            12,
        ),
        text(left - 12, top - 8, "layer", "soft", 11, "end"),
    ]
    for row, layer in enumerate(layers):
        y = top + row * high
        parts.append(text(left - 12, y + 19, str(layer), "soft", 12, "end"))
        for position in range(len(table.tokens)):
            x = left + position * wide
            from_bottom = table.vocabulary - 1 - table.rank(followed, layer, position)
            strength = 1.0 if from_bottom == 0 else 0.5 if from_bottom < 100 else 0.18 if from_bottom < 1000 else 0.0
            parts.append(f'<rect class="box" x="{x}" y="{y}" width="{wide - 4}" height="{high - 4}" rx="4"/>')
            if strength:
                parts.append(
                    f'<rect class="hit" fill-opacity="{strength}" x="{x}" y="{y}" width="{wide - 4}" '
                    f'height="{high - 4}" rx="4"/>'
                )
            word = table.bottom(layer, position)[0].strip()
            kind = "hitink" if strength == 1.0 else "ink"
            parts.append(text(x + (wide - 4) / 2, y + 18, word[:12], f"mono {kind}", 12, "middle"))
    under = top + len(layers) * high + 14
    for position, token in enumerate(table.tokens):
        parts.append(
            text(
                left + position * wide + (wide - 4) / 2,
                under,
                token.strip(),
                "mono ink",
                12,
                "middle",
                font_weight="600",
            )
        )
    legend = under + 28
    x = left
    for strength, words in (
        (1.0, "Canberra is promoted most"),
        (0.5, "among the first 100"),
        (0.18, "first 1,000 of 49,152"),
    ):
        parts.append(
            f'<rect class="hit" fill-opacity="{strength}" x="{x}" y="{legend - 11}" width="14" height="14" rx="3"/>'
        )
        parts.append(text(x + 20, legend, words, "soft", 12))
        x += 36 + 7 * len(words)
    return picture(left + 6 * wide + 16, legend + 18, "Backward Lens grid of one prompt", "\n".join(parts))


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="line" stroke-width="1.6" marker-end="url(#tip)" d="M{x1:g} {y1:g} L{x2:g} {y2:g}"/>'


def box(x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="box" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8"/>'


def idea() -> str:
    """A fact becomes a key and a value, those a small patch, and the patch comes off again."""
    tops, high, wide, gap = 76, 132, 196, 42
    columns = [24 + i * (wide + gap) for i in range(4)]
    titles = ["1  a fact", "2  key → value", "3  a patch", "4  undo"]
    parts = [
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="tip" d="M0 0 L10 5 L0 10 z"/></marker></defs>',
        text(24, 32, "How a fact gets into the weights, and out again", size=16, font_weight="600"),
    ]
    for x, title in zip(columns, titles, strict=True):
        parts += [text(x, tops - 12, title, size=13, font_weight="600"), box(x, tops, wide, high)]
    for x in columns[:3]:
        parts.append(arrow(x + wide + 6, tops + high / 2, x + wide + gap - 6, tops + high / 2))
    a, b, c, d = columns
    parts += [
        text(a + 14, tops + 30, "The capital city of", "mono ink", 12),
        text(a + 14, tops + 50, "Australia is …", "mono ink", 12),
        text(a + 14, tops + 84, "Sydney", "mono old", 13, text_decoration="line-through"),
        text(a + 14, tops + 108, "Canberra", "mono new", 13, font_weight="600"),
        text(b + 14, tops + 26, "key: what the MLP reads", "ink", 12),
        text(b + 14, tops + 44, "at “Australia”", "ink", 12),
        text(b + 14, tops + 74, "value: what it should write", "ink", 12),
        text(b + 14, tops + 92, "so that “Canberra” follows", "ink", 12),
        text(b + 14, tops + 118, "found by gradient steps", "soft", 12),
        text(c + 14, tops + 26, "W + ΔW", "mono ink", 15, font_weight="600"),
        text(c + 14, tops + 52, "the least change of a few", "ink", 12),
        text(c + 14, tops + 70, "matrices that maps every", "ink", 12),
        text(c + 14, tops + 88, "key to its value and leaves", "ink", 12),
        text(c + 14, tops + 106, "ordinary text alone", "ink", 12),
        text(d + 14, tops + 26, "apply", "mono new", 13, font_weight="600"),
        text(d + 66, tops + 26, "“… Canberra”", "ink", 12),
        text(d + 14, tops + 56, "remove", "mono old", 13, font_weight="600"),
        text(d + 74, tops + 56, "“… Sydney”", "ink", 12),
        text(d + 14, tops + 90, "the original weights,", "ink", 12),
        text(d + 14, tops + 108, "bit for bit", "ink", 12),
    ]
    return picture(columns[-1] + wide + 24, tops + high + 24, "From a fact to a patch and back", "\n".join(parts))


if __name__ == "__main__":
    (HERE / "idea.svg").write_text(idea(), encoding="utf-8")
    (HERE / "grid.svg").write_text(grid(), encoding="utf-8")
