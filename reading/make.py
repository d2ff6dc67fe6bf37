"""The reading edition: every equation beside the code that has it, as one page.

    python -m reading.make --out reading.html

The page is made from the source, README and equations.py as they stand, and needs nothing but
itself: it can be mailed, printed, and read without a network.
"""
import ast
import html
import re
from pathlib import Path

from plumbing.cli import Parser, file_name, one_line_errors
from plumbing.files import replacing
from reading import pictures
from reading.equations import EQUATIONS
from reading.source import ROOT, Source, departures
from reading.typeset import Typesetter

HERE = Path(__file__).parent
CORE = ["schedules", "ddpm", "unet", "data", "train", "sample"]             # the reading order
ROADS = {
    "The road of one training step": ("python train.py", [
        ("train.main", "The flags become a Config."),
        ("train.train", "The data, the network, its average and Adam; then step after step."),
        ("train.draw_batch", "Images, with replacement: $x_0 \\sim q(x_0)$."),
        ("train.L_simple", "One loss for each image, so that the log can sort them by t."),
        ("ddpm.DDPM.draw_t", "A time for each image, 1 to T."),
        ("ddpm.DDPM.loss", "The noise is drawn here, and here the network is asked for it."),
        ("ddpm.DDPM.q_sample", "In one jump to $x_t$."),
        ("unet.UNet.forward", "Down, through the middle, and up again."),
        ("unet.timestep_embedding", "Where the time enters: each block adds a function of this."),
        ("train.update_ema", "After Adam's step, the average that will be sampled from.")]),
    "The road of one sample": ("python sample.py", [
        ("sample.main", "The flags; then which checkpoint."),
        ("sample.load", "Process and network, rebuilt from the checkpoint alone."),
        ("sample.batches", "As many images at once as fit, each batch with noise of its own."),
        ("sample.draw", "$x_T$ is drawn here, and here the progress is shown."),
        ("ddpm.DDPM.reverse_process", "From T to 1: Algorithm 2."),
        ("ddpm.DDPM.estimate_x_0", "The network is asked for the noise, and $\\hat x_0$ clipped."),
        ("ddpm.DDPM.predict_x_0", "Which $x_0$ would that noise mean?"),
        ("ddpm.DDPM.posterior_sample", "A step back, and noise but at t = 1."),
        ("ddpm.DDPM.posterior_mean", "Between $\\hat x_0$ and $x_t$."),
        ("data.to_uint8", "From [-1, 1] to pixels, once, at the end.")]),
}
# A symbol as docstrings write it: alpha_bar_t, beta-tilde_{t-1}, x_0_hat, eps_theta
ASCII = (r"\b(x|z|alpha|beta|sigma|mu|eps|epsilon)(?:[_-](bar|tilde))?"
         r"_(\w|theta|\{t-1\})(?:[_-](hat))?(?![\w-]|\{)")


def latex(letter, accent, index, hat):
    letter = {"x": "x", "z": "z", "eps": r"\epsilon"}.get(letter, "\\" + letter)
    accent = f"\\{accent or hat} " * bool(accent or hat)
    return accent + letter + "_" + {"theta": r"\theta"}.get(index, index)


def table(title):
    """Return the rows below a heading of README, each a list of cells."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split(f"\n## {title}\n")[1]
    lines = [line for line in text.split("\n## ")[0].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[1:]]


def symbols():
    """Return {LaTeX: key} and {name in code: key}, as README's notation has them.

    What stands in brackets belongs to neither: alpha-bar_t is `alpha_bar[t]` is alpha_bar.
    """
    latex, names = {"x_{t-1}": "", "x_{t+1}": "", "x_{0:T}": "", "x_{1:T}": ""}, {}
    for paper, here, *_ in table("Notation"):
        math = re.match(r"\$([^$(=]+)", paper)
        if math:
            codes = re.findall(r"`(\w+)(?!\w|=)(\[?)", here)
            key, index = codes[0]
            latex[re.sub(r"_(t|\{t-1\})$", "", math[1].strip()) if index else math[1].strip()] = key
            names |= {code: key for code, _ in codes}
    return latex, names


class Page:
    """The page: its sources, its typesetter, and how text becomes HTML."""

    def __init__(self):
        rooms = [ROOT / "papers", ROOT / "papers" / "kit"]
        self.sources = [Source(f"{module}.py") for module in CORE]
        self.sources += [Source(path.relative_to(ROOT).as_posix()) for room in rooms
                         for path in sorted(room.glob("*.py")) if path.name != "__init__.py"]
        self.known = {piece.name for source in self.sources for piece in source.pieces
                      if piece.name != source.module}
        latex, self.names = symbols()
        self.typeset = Typesetter(latex)
        self.tests, self.left, self.shown = {}, {}, set()
        pieces = {piece.name: piece for source in self.sources for piece in source.pieces}
        for source in self.sources:
            for piece in source.pieces:
                piece.html, seen = source.highlight(piece, self.names, self.known)
                for name in dict.fromkeys(seen):
                    if name != piece.name and piece.name in self.known:
                        pieces[name].users.append(piece.name)
            for piece, text in departures(source):
                self.left.setdefault((source.path, piece.first), []).append(text)
        self.implements = {}                         # {name of code: [(paper, number, equation)]}
        for paper, (_, _, equations, _) in EQUATIONS.items():
            for number, equation in equations.items():
                for name in equation.code.split():
                    self.implements.setdefault(name, []).append((paper, number, equation))

    def text(self, text):
        """Return a sentence as HTML: math between dollar signs, code between backticks."""
        parts = re.split(r"(\$[^$]+\$|`[^`]+`)", text)
        return "".join(self.typeset(part[1:-1]) if part[:1] == "$" else
                       f"<code>{html.escape(part[1:-1])}</code>" if part[:1] == "`" else
                       re.sub(ASCII, lambda found: self.typeset(latex(*found.groups(""))),
                              html.escape(part, quote=False)) for part in parts)

    def prose(self, doc, departures=()):
        """Return a docstring as HTML: paragraphs, and indented lines as they stand."""
        out = []
        for part in re.split(r"\n\s*\n", doc):
            text = " ".join(part.split())
            out.append(f"<pre>{html.escape(part)}</pre>" if part.startswith("    ") else
                       self.aside(text) if text in departures else f"<p>{self.text(text)}</p>")
        return "".join(out)

    def aside(self, text):
        return f"<aside><b>Departure</b> {self.text(text)}</aside>"

    def link(self, name, text=None):
        return f'<a href="#{name}"><code>{text or name}</code></a>'

    def equation(self, paper, number, equation):
        lines = [equation.latex] if isinstance(equation.latex, str) else equation.latex
        words = any("$" in line for line in lines)
        shown = "".join(
            f"<li{' class=in' * line.startswith(' ')}>" + self.text(line.strip()) + "</li>"
            if words else f"<div>{self.typeset(line, True)}</div>" for line in lines if line)
        shown = f"<ol>{shown}</ol>" if number.startswith("Algorithm") else (
            f"<ul>{shown}</ul>" if words else shown)
        return (f'<div class="eq"><a class="no" href="#{slug(paper, number)}">{number}'
                f"<small>{paper}</small></a>{shown}<p>{self.text(equation.says)}</p></div>")

    def test_source(self, file):
        if file not in self.tests:
            self.tests[file] = Source(file) if (ROOT / file).exists() else None
        return self.tests[file]

    def proofs(self, module, name):
        """Return the tests of a function: those of its equations, and those that name it."""
        found = {}
        for _, _, equation in self.implements.get(name, []):
            for test in equation.tests.split():
                found[test_path(test, equation.code)] = True
        last = name.rsplit(".", 1)[1] if name.rsplit(".", 1)[1] != "forward" else name.split(".")[-2]
        source = self.test_source(test_file(module))
        for piece in source.pieces if source and not last.startswith("__") else []:
            text = "".join(source.lines[piece.first - 1:piece.last])
            if ".test_" in piece.name and re.search(rf"\b{last}\(", text):
                found.setdefault((source.path, piece.name.rsplit(".", 1)[1]), False)
        return found

    def test(self, file, name, proves):
        label = name.removeprefix("test_").replace("_", " ")
        at = slug(file, name)
        if at in self.shown and not proves:
            return f'<p class="test"><a href="#{at}">{label}</a></p>'
        source = self.test_source(file)
        piece = next(piece for piece in source.pieces if piece.name.endswith("." + name))
        code, _ = source.highlight(piece, self.names, self.known)
        mark = "" if at in self.shown else f' id="{at}"'
        self.shown.add(at)
        return (f'<details class="{"proof" if proves else "test"}"{mark}><summary>{label}</summary>'
                f'<p class="at">{file}, line {piece.first}</p><pre>{code}</pre></details>')

    def row(self, source, pieces):
        """Return a piece: the paper on the left, the code and its tests on the right.

        pieces: one, or the docstring of a module and the imports after it.
        """
        piece, named = pieces[0], pieces[0].name in self.known
        left, notes = [], self.left.get((source.path, piece.first), [])
        if named:
            left.append(f'<h3><a href="#{piece.name}">{piece.name[len(source.module) + 1:]}</a></h3>')
            equations = self.implements.get(piece.name, [])
            left += [self.equation(*found) for found in equations]
            if not equations and piece.doc:
                left.append(self.prose(re.split(r"\n\s*\n", piece.doc)[0]))
        if named or not piece.doc:
            left += map(self.aside, notes)
        else:
            left.append(self.prose(piece.doc.partition("\n\n")[2], notes))
        near = [user for user in piece.users if user.startswith(source.module + ".")
                or not user.startswith("papers.")]
        if piece.users:
            links = [self.link(user, user.removeprefix(source.module + ".")) for user in near]
            far = len(piece.users) - len(near)
            links += [f"{far} place{'s' * (far > 1)} in papers/"] * (far > 0)
            left.append(f'<p class="users">used by {", ".join(links)}</p>')
        left += pictures.beside(piece.name if named or piece.doc else "", self)
        right = ""
        for part in pieces:
            numbers = "\n".join(map(str, range(part.first, part.last + 1)))
            code = (f'<div class="code"><pre class="n" aria-hidden="true">{numbers}</pre>'
                    f"<pre>{part.html}</pre></div>")
            right += code if named or not part.doc else (
                f"<details><summary>the docstring as it stands</summary>{code}</details>")
        proofs = self.proofs(source.module, piece.name) if named else {}
        sure = "".join(self.test(*test, True) for test, proves in proofs.items() if proves)
        others = [self.test(*test, False) for test, proves in proofs.items() if not proves]
        if sure:
            right += f'<div class="tests"><b>proved by</b>{sure}</div>'
        if others:
            right += (f'<details class="tests"><summary>{len(others)} {"more " * bool(sure)}'
                      f'test{"s call" if len(others) > 1 else " calls"} it</summary>'
                      f'{"".join(others)}</details>')
        mark = f' id="{piece.name}"' if named else ""
        return (f'<section class="row"{mark}><div class="paper">{"".join(left)}</div>'
                f"<div>{right}</div></section>")

    def file(self, source):
        title = source.doc.split("\n\n")[0].replace("\n", " ")
        rows = [source.pieces[:2], *([piece] for piece in source.pieces[2:])]
        if source.pieces[1].name in self.known:      # nothing between the docstring and a function
            rows[:1] = [source.pieces[:1], source.pieces[1:2]]
        return (f'<article id="{source.module}"><h2>{source.path}<small>{self.text(title)}</small>'
                f'</h2>{"".join(self.row(source, pieces) for pieces in rows)}</article>')

    def roads(self):
        out = []
        for title, (command, places) in ROADS.items():
            steps = "".join(f"<li>{self.link(name)} {self.text(says)}</li>" for name, says in places)
            out.append(f"<div><h3>{title}</h3><p><code>{command}</code></p><ol>{steps}</ol></div>")
        return f'<div class="two">{"".join(out)}</div>'

    def notation(self):
        head = "<tr><th>paper<th>here<th>diffusers<th>OpenAI<th>where</tr>"
        rows = []
        for row in table("Notation"):
            name = re.match(r"`(\w+)", row[1])[1]
            where = [piece.name for source in self.sources[:6] for piece in source.pieces
                     if piece.name in self.known and self.names.get(name)
                     and f'data-s="{self.names[name]}">{name}<' in piece.html]
            cells = "".join(f"<td>{self.text(cell)}</td>" for cell in row)
            links = ", ".join(self.link(at, at.rsplit(".", 1)[1]) for at in where[:8])
            rows.append(f"<tr>{cells}<td>{links}</td></tr>")
        return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'

    def departures(self):
        bullets = (ROOT / "README.md").read_text(encoding="utf-8").split(
            "\n## Where this differs from the paper\n\n- ")[1].split("\n\n")[0].split("\n- ")
        out = "".join(f"<li>{bold(self.text(' '.join(item.split())))}</li>" for item in bullets)
        own = "".join(f"<dt>{self.link(piece.name)}</dt><dd>{self.text(text)}</dd>"
                      for source in self.sources for piece, text in departures(source))
        return f"<ul>{out}</ul><h3>As the docstrings state them</h3><dl>{own}</dl>"

    def index(self):
        out = []
        for paper, (title, link, equations, text) in EQUATIONS.items():
            rows = "".join(
                f'<li id="{slug(paper, number)}"><b>{number}</b> {self.text(equation.says)} '
                + " ".join(self.link(name) for name in equation.code.split()) + "</li>"
                for number, equation in equations.items())
            out.append(f'<h4>{paper}, <a href="{link}"><cite>{title}</cite></a></h4><p>{text}</p>'
                       f"<ul>{rows}</ul>")
        files = "".join(
            f'<dt><a href="#{source.module}">{source.path}</a></dt><dd>' + " ".join(
                self.link(piece.name, piece.name[len(source.module) + 1:])
                for piece in source.pieces if piece.name in self.known) + "</dd>"
            for source in self.sources)
        return (f'<h3>By equation</h3>{"".join(out)}<h3>By symbol</h3><p>See the <a href="#notation">'
                f"notation</a>.</p><h3>By file</h3><dl>{files}</dl>")

    def contents(self):
        def items(sources):
            return "".join(f'<li><a href="#{source.module}">{source.path.rsplit("/", 1)[-1]}</a></li>'
                           for source in sources)
        kit = [source for source in self.sources if source.module.startswith("papers.kit.")]
        papers = [source for source in self.sources[6:] if source not in kit]
        return ('<ul><li><a href="#roads">two roads</a></li><li><a href="#notation">notation</a></li>'
                f'</ul><ul>{items(self.sources[:6])}</ul><p>papers/</p><ul>{items(papers)}</ul>'
                f'<p>papers/kit/</p><ul>{items(kit)}</ul><ul><li><a href="#departures">departures</a>'
                '</li><li><a href="#index">index</a></li></ul>')

    def __str__(self):
        files = "".join(map(self.file, self.sources))
        parts = {"style": (HERE / "page.css").read_text(encoding="utf-8"),
                 "script": (HERE / "page.js").read_text(encoding="utf-8"),
                 "contents": self.contents(), "roads": self.roads(), "notation": self.notation(),
                 "files": files, "departures": self.departures(), "index": self.index()}
        parts["defs"] = self.typeset.defs()          # last: now all that is used is known
        page = (HERE / "page.html").read_text(encoding="utf-8")
        return re.sub(r"<!--(\w+)-->", lambda part: parts[part[1]], page)


def bold(text):
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)


def slug(paper, number):
    return re.sub(r"\W+", "-", f"{paper} {number}")


def test_file(module):
    *rooms, name = module.split(".")
    return "/".join(["tests", *rooms, f"test_{name}.py"])


def test_path(test, code):
    """Return (path, name) of a test as equations.py names it."""
    *where, name = test.split(".")
    if where:
        return test_file(".".join(where)), "test_" + name
    parts = code.split()[0].split(".")
    while not (ROOT / "/".join(parts)).with_suffix(".py").is_file():
        parts.pop()
    return test_file(".".join(parts)), "test_" + name


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--out", type=file_name(".html"), default=Path("reading.html"),
                        help="the page (reading.html)")
    args = parser.parse_args(argv)
    with one_line_errors("reading.make"):
        text = str(Page())
        with replacing(args.out) as path:
            path.write_text(text, encoding="utf-8")
        print(f"wrote {args.out}, {len(text.encode()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
