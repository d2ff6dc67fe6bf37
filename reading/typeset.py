"""Equations as inline SVG, each glyph drawn once for the whole page, and as ASCII beside it."""
import html
import re

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

FONT = FontProperties(size=100, math_fontfamily="cm")          # Computer Modern, as in the papers
WORDS = {"mid": "|", "|": "||", "leq": "<=", "geq": ">=", "sim": "~", "ldots": "...", "cdot": "*",
         "left": "", "right": "", ",": " ", ";": " ", "quad": " ",
         "approx": "~=", "rightarrow": "->", "infty": "infinity", "times": "x", "nabla": "grad",
         "leftarrow": "<-", "neq": "!=", "langle": "<", "rangle": ">"}


def plain(latex):
    """Write an equation as docstrings do: sqrt(alpha_bar_t) x_0 + ..., fractions in brackets."""
    def group(part):
        return part if re.fullmatch(r"\w+|\w*\([^()]*\)", part) else f"({part.strip()})"
    text, before = re.sub(r"\\(left|right)\.", "", latex), None
    text = text.replace(r"\{", "\0").replace(r"\}", "\1").replace(r"\epsilon", r"\eps")
    while text != before:                            # from the innermost braces outwards
        before = text
        text = re.sub(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}",
                      lambda parts: f" ({group(parts[1])} / {group(parts[2])}) ", text)
        text = re.sub(r"\\sqrt\s*\{([^{}]*)\}", r"sqrt(\1)", text)
        text = re.sub(r"\\math\w+\s*\{([^{}]*)\}", r"\1", text)
        text = re.sub(r"\\hat\s*(x_\w)", r"\1_hat", text)
        text = re.sub(r"\\(bar|tilde|hat|dot)\s*(\{)?\s*\\?([a-zA-Z]+)\s*(?(2)\})", r"\3_\1", text)
        text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
        text = re.sub(r"([_^])\{([^{}]*)\}", r"\1[\2]", text)
    text = re.sub(r"\\([a-zA-Z]+|.)", lambda word: WORDS.get(word[1], word[1]), text)
    return re.sub(r"([(\[]) | (?=[)\]])", r"\1", " ".join(text.split())).translate({0: "{", 1: "}"})


class Typesetter:
    """Called with LaTeX math, returns a span of SVG and, hidden beside it, `plain` text.

    symbols: {letters: {LaTeX: key}}, for each way to use letters.  Where one of the symbols stands
        in an equation, the longest that fits, its glyphs become a group with data-s="key" (no
        group if the key is "").
    """

    def __init__(self, symbols):
        self.draw, self.outlines, self.names, self.done = TextToPath(), {}, {}, {}
        self.symbols = {}
        for letters, keys in symbols.items():
            found = [(signature(self.layout(latex)[0]), key) for latex, key in keys.items()]
            self.symbols[letters] = sorted(found, key=lambda pair: -len(pair[0]))

    def __call__(self, latex, letters="", display=False):
        asked = latex, letters, display
        if asked not in self.done:
            large = latex.replace(r"\frac", r"\dfrac") if display else latex
            large = re.sub(r"(\\(?:sum|prod)(?:[_^](?:\{[^{}]*\}|\w))*)", r"\1 \,", large)
            self.done[asked] = (
                f'<span class="math">{self.typeset(large, self.symbols[letters])}'
                f'<span class="said">{html.escape(plain(latex))}</span></span>')
        return self.done[asked]

    def layout(self, latex):
        """Return [(glyph, x, y, scale)] and the rectangles of fractions and roots."""
        glyphs, outlines, bars = self.draw.get_glyphs_mathtext(FONT, f"${latex}$")
        self.outlines |= outlines
        return glyphs, bars

    def typeset(self, latex, symbols):
        glyphs, bars = self.layout(latex)
        width, height, depth = self.draw.get_text_width_height_descent(f"${latex}$", FONT, True)
        parts, i = [], 0
        while i < len(glyphs):
            n, key = next(((len(signs), key) for signs, key in symbols
                           if signature(glyphs[i:i + len(signs)]) == signs), (1, ""))
            uses = "".join(map(self.use, glyphs[i:i + n]))
            if key:
                corners = np.concatenate([self.outlines[glyph][0] * scale + [x, y]
                                          for glyph, x, y, scale in glyphs[i:i + n]])
                box = rectangle(*corners.min(0), *corners.max(0))
                uses = f'<g data-s="{key}">{box}{uses}</g>'
            parts.append(uses)
            i += n
        parts += [rectangle(*corners[0], corners[2][0], max(corners[2][1], corners[0][1] + 4))
                  for corners, _ in bars]
        return (f'<svg aria-hidden="true" viewBox="0 {-10 * (height - depth):.0f} {10 * width:.0f} '
                f'{10 * height:.0f}" style="width:{width / 100:.2f}em;vertical-align:'
                f'{-depth / 100:.2f}em">{"".join(parts)}</svg>')

    def use(self, placed):
        glyph, x, y, scale = placed
        name = self.names.setdefault(glyph, f"g{len(self.names)}")
        if scale == 1:
            return f"<use href=#{name} x={10 * x:.0f} y={-10 * y:.0f} />"
        return (f"<use href=#{name} transform=translate({10 * x:.0f},{-10 * y:.0f})"
                f"scale({scale:.2g}) />")

    def defs(self):
        """Return the outlines of all glyphs that were used."""
        letters, paths = {1: "M", 2: "L", 3: "Q", 4: "C"}, []
        for glyph, name in self.names.items():
            path, last = "", None
            for (x, y), code in zip(*self.outlines[glyph], strict=True):
                letter = letters[code] if code in letters and (code == 1 or code != last) else " "
                path += "Z" if code == 79 else f"{letter}{10 * x:.0f} {-10 * y:.0f}"
                last = code
            paths.append(f'<path id="{name}" d="{path}"/>')
        return f'<svg class="defs" aria-hidden="true"><defs>{"".join(paths)}</defs></svg>'


def signature(glyphs):
    """Return what tells symbols apart: the glyphs, and which are smaller than the first."""
    return [(glyph, scale < 0.9 * glyphs[0][3]) for glyph, _, _, scale in glyphs]


def rectangle(x, y, right, top):
    return (f"<rect x={10 * x:.0f} y={-10 * top:.0f} width={10 * (right - x):.0f} "
            f"height={10 * (top - y):.0f} />")
