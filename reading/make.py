"""The reading edition: every equation beside the code that has it, as one page.

    python -m reading.make --out reading.html

The page is made from the source, README and equations.py as they stand, and needs nothing but
itself: it can be mailed, printed, and read without a network.
"""
import html
import re
from pathlib import Path
from textwrap import dedent

from plumbing.cli import Parser, file_name, one_line_errors
from plumbing.files import replacing
from reading import pictures
from reading.equations import EQUATIONS
from reading.source import ROOT, Source, departures
from reading.typeset import Typesetter

CORE = ["schedules", "ddpm", "unet", "data", "train", "sample"]             # the reading order
ROADS = {
    "The road of one training step": ("python train.py", [
        ("train.main", "The flags become a Config."),
        ("train.train", "The data, the network, its average and Adam; then step after step: loss,"
         " backward, clip, Adam, average."),
        ("train.draw_batch", "Images, with replacement: $x_0 \\sim q(x_0)$."),
        ("train.L_simple", "One loss for each image, so that the log can sort them by t."),
        ("ddpm.DDPM.draw_t", "A time for each image, 1 to T."),
        ("ddpm.DDPM.loss", "The noise is drawn here, and here the network is asked for it."),
        ("ddpm.DDPM.q_sample", "In one jump to $x_t$."),
        ("unet.UNet.forward", "Down, through the middle, and up again."),
        ("unet.timestep_embedding", "The time as waves, of which `UNet.embed` makes a vector."),
        ("unet.ResidualBlock.forward", "Where the time enters: added to each pixel, through a"
         " layer of the block's own."),
        ("train.update_ema", "After Adam's step, the average that will be sampled from.")]),
    "The road of one sample": ("python sample.py", [
        ("sample.main", "The flags; then which checkpoint."),
        ("sample.load", "Process and network, rebuilt from the checkpoint alone."),
        ("sample.batches", "As many images at once as fit, each batch with noise of its own."),
        ("sample.draw", "$x_T$ is drawn here, and the progress shown."),
        ("ddpm.DDPM.reverse_process", "From T to 1: Algorithm 2."),
        ("ddpm.DDPM.estimate_x_0", "The network is asked for the noise, and $\\hat x_0$ clipped."),
        ("ddpm.DDPM.predict_x_0", "Which $x_0$ would that noise mean?"),
        ("ddpm.DDPM.posterior_sample", "A step back, and noise, except at t = 1."),
        ("ddpm.DDPM.posterior_mean", "Between $\\hat x_0$ and $x_t$."),
        ("data.to_uint8", "From [-1, 1] to pixels, once, at the end.")]),
}
# Papers that write x_t, alpha-bar_t and so on as Ho et al. do; in the others these would mislead.
SAME_LETTERS = ("Ho et al. 2020", "Nichol & Dhariwal 2021", "Liu et al. 2022", "Chung et al. 2023",
                "Dhariwal & Nichol 2021", "Lugmayr et al. 2022", "Lin et al. 2023")
# What other papers write for what is ours, and where letters of ours are those of something else.
LETTERS = {
    "Song, Meng & Ermon 2020": {r"\alpha": "alpha_bar"},
    "Ho & Salimans 2022": {r"z_\lambda": "x_t", "z_t": "x_t", r"\epsilon": "eps",
                           r"\epsilon_\theta": "model", r"\alpha": "", r"\sigma": "", "z": ""},
}
OTHERS = {
    "papers.ddim.slerp": "alpha alpha_bar", "papers.ddim.encode": "sigma",
    "papers.ncsn": "alpha sigma", "papers.score_matching": "sigma",
    "papers.score_distillation": "alpha sigma z",
    "papers.dpm_solver": "alpha sigma", "papers.edm": "alpha sigma", "papers.kit.analytic": "sigma",
    "papers.score_sde": "alpha sigma", "papers.other_spaces": "sigma", "papers.pndm": "sigma",
    "papers.time_features": "sigma", "papers.dps": "sigma", "papers.anomaly": "z",
}
# A symbol as docstrings write it: alpha_bar_t, beta-tilde_{t-1}, sigma_t^2, x_0_hat, eps_theta
ASCII = re.compile(r"\b(x|z|alpha|beta|sigma|mu|eps|epsilon|L)(?:[_-](bar|tilde))?"
                   r"_(\w|theta|simple|hybrid|vlb|\{t-1\})(?:[_-](hat))?(\^2)?(?![\w-]|\{)")


def latex(symbol):
    """Return a match of ASCII as LaTeX."""
    letter, accent, index, hat, power = symbol.groups("")
    letter = letter if len(letter) == 1 else r"\epsilon" if letter == "eps" else f"\\{letter}"
    accent = f"\\{accent or hat} " if accent or hat else ""
    index = r"\theta" if index == "theta" else rf"{{\mathrm{{{index}}}}}" if index.isalpha() and (
        len(index) > 1) else index
    return accent + letter + "_" + index + power


def section(title):
    """Return what README says below a heading."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def notation():
    """Return the rows of README's notation, each a list of cells."""
    lines = [line for line in section("Notation").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[1:]]


def symbols():
    """Return {LaTeX: key} and {name in code: key} of what README's notation says is the same.

    An index in brackets belongs to neither: alpha-bar_t is `alpha_bar[t]`, is alpha_bar.
    """
    in_math, in_code = {"x_{t-1}": "", "x_{t+1}": "", "x_{0:T}": "", "x_{1:T}": ""}, {}
    for paper, here, *_ in notation():
        maths = re.findall(r"\$([^$(=]+)[^$]*\$", paper)
        codes = re.findall(r"`(\w+)(?!\w|=)(\[?)", here) if maths else []
        for i, (name, index) in enumerate(codes):
            if i < len(maths):                       # else another name of the last
                key, stem = name, maths[i].strip()
                in_math[re.sub(r"_(t|\{t-1\})$", "", stem) if index else stem] = key
            in_code[name] = key
    return in_math, in_code


class Page:
    """The page as a string: str(Page())."""

    def __init__(self):
        papers = [path.relative_to(ROOT).as_posix() for room in ("papers", "papers/kit")
                  for path in sorted((ROOT / room).glob("*.py")) if path.name != "__init__.py"]
        self.sources = [Source(path) for path in [f"{module}.py" for module in CORE] + papers]
        pieces = {piece.name: piece for source in self.sources for piece in source.pieces
                  if piece.name != source.module}
        self.known, self.tests, self.shown, self.notes = set(pieces), {}, set(), {}
        self.bases, self.uses = {}, {}
        for source in self.sources:
            self.bases |= source.bases
            self.uses |= source.uses()
        modules = {source.module for source in self.sources}
        in_math, self.names = symbols()
        self.typeset = Typesetter({
            "": {}, "ours": in_math} | {paper: in_math | own for paper, own in LETTERS.items()})
        for source in self.sources:
            for piece in source.pieces:
                piece.html, seen = source.highlight(piece, self.names, self.known | modules)
                for name in dict.fromkeys(seen):
                    if piece.name != name in pieces and piece.name in pieces:
                        pieces[name].users.append(piece.name)
            for piece, text in departures(source):
                self.notes.setdefault(piece, []).append(text)
        self.implements = {}                         # {name of code: [(paper, number, equation)]}
        for paper, about in EQUATIONS.items():
            for number, equation in about.equations.items():
                for name in equation.code.split():
                    self.implements.setdefault(name, []).append((paper, number, equation))

    def text(self, text, letters="ours"):
        """Return a sentence as HTML: math between dollar signs, code between backticks."""
        out = []
        for part in re.split(r"(\$[^$]+\$|`[^`]+`)", text):
            if part.startswith("$"):
                out.append(self.typeset(part[1:-1], letters))
            elif part.startswith("`"):
                out.append(f"<code>{html.escape(part[1:-1])}</code>")
            else:
                out.append(ASCII.sub(lambda symbol: self.typeset(latex(symbol), letters),
                                     html.escape(part, quote=False)))
        shown = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", "".join(out))
        # A symbol takes the brackets at its sides along: no line ends between them.
        shown = re.sub(r'([^\s<>]*\()<span class="math">', r'<span class="math">\1', shown)
        return re.sub(r"</span></span>([),.;:]+)", r"</span>\1</span>", shown)

    def prose(self, doc, notes=()):
        """Return a docstring as HTML: paragraphs, some of them notes, and lines as they stand."""
        out = []
        for part in re.split(r"\n\s*\n", doc):
            text, items = " ".join(part.split()), re.split(r"(?:^|\n)- ", part)[1:]
            items = "".join(f"<li>{self.text(' '.join(item.split()))}</li>" for item in items)
            out.append(f"<pre>{html.escape(dedent(part))}</pre>" if part.startswith("    ") else
                       self.note(text) if text in notes else
                       f"<ul>{items}</ul>" if part.startswith("- ") else
                       f"<p>{self.text(text)}</p>")
        return "".join(out)

    def note(self, text):
        return f"<aside><b>Paper and code</b>{self.text(text)}</aside>"

    def link(self, name, text=None):
        return f'<a href="#{name}"><code>{text or name}</code></a>'

    def equation(self, paper, number, equation):
        letters = letters_of(paper)
        lines = [equation.latex] if isinstance(equation.latex, str) else equation.latex
        if "Algorithm" in number:
            shown = "".join(
                f'<li style="padding-left:{(len(line) - len(line.lstrip())) / 2}em">'
                f"{self.text(line.strip(), letters)}</li>" for line in lines)
            shown = f"<ol>{shown}</ol>"
        else:
            shown = "".join("<div>" + (self.text(line, letters) if "$" in line else
                                       self.typeset(line, letters, True)) + "</div>"
                            for line in lines if line)
        widest = max(map(float, re.findall(r"width:([\d.]+)em", shown)), default=1)
        return (f'<div class="eq" style="--widest:{widest}">'
                f'<a class="no" href="#{slug(paper, number)}">{number}'
                f"<small>{html.escape(paper)}</small></a>{shown}"
                f"<p>{self.text(equation.says, letters)}</p></div>")

    def proofs(self, module, name):
        """Return {(file, test): what it does}: "proved by" and "calls it" come to the function.

        A test "of the same equation" does not; the first two are those that equations.py names.
        """
        found = {}
        for _, _, equation in self.implements.get(name, []):
            for test in equation.tests.split():
                file, test = test_path(test, equation.code)
                found[file, test] = ("proved by" if name in self.called(file, test)
                                     else "of the same equation")
        source, (owner, _, method) = self.test_source(test_file(module)), name.rpartition(".")
        names = {name, owner if method == "forward" else "." * (owner in self.bases) + method}
        for piece in source.pieces if source else []:
            test = piece.name.rpartition(".")[2]
            if test.startswith("test_") and names & self.uses.get(piece.name, set()):
                found.setdefault((source.path, test), "calls it")
        return found

    def called(self, file, test):
        """Return the names of all that a test comes to, itself or through others.

        A method is that of any class it comes to; a class comes to its __init__ and forward.
        """
        found, new = set(), {f"{self.test_source(file).module}.{test}"}
        while new:
            found |= new
            new = {name for at in new for name in self.uses.get(at, ())} - found
            names = found | new
            new |= {owner + name for owner in names & self.bases.keys() for name in names
                    if name.startswith(".") and owner + name in self.uses} - found
        return found

    def test_source(self, file):
        if file not in self.tests:
            self.tests[file] = Source(file) if (ROOT / file).is_file() else None
            self.uses |= self.tests[file].uses() if self.tests[file] else {}
        return self.tests[file]

    def test(self, file, name, kind):
        """Return a test with its source to open; the second time a link to the first."""
        label, at = name.removeprefix("test_").replace("_", " "), slug(file, name)
        mark = " class=proof" * (kind == "proved by")
        if at in self.shown:
            return f'<p{mark}><a href="#{at}">{label}</a></p>'
        if kind == "calls it" and "/papers/" in file:                   # of these the names will do
            return f"<p>{label}</p>"
        self.shown.add(at)
        source = self.test_source(file)
        piece = next(piece for piece in source.pieces if piece.name.endswith("." + name))
        code, _ = source.highlight(piece, {}, set())
        return (f'<details{mark}><summary>{label}</summary><p class="at" id="{at}">{file}, line '
                f'{piece.first}</p><pre>{code}</pre></details>')

    def row(self, source, pieces):
        """Return a function, the paper on the left, the code and its tests on the right.

        pieces: one, or of a module its docstring and what stands between that and a function.
        """
        piece, short = pieces[0], len(source.module) + 1
        named, left, right = piece.name in self.known, [], []
        if named:
            left.append(f'<h3><a href="#{piece.name}">{piece.name[short:]}</a></h3>')
            left += [self.equation(*found) for found in self.implements.get(piece.name, [])]
            if len(left) == 1 and piece.doc:
                left.append(self.prose(re.split(r"\n\s*\n", piece.doc)[0]))
        notes = self.notes.get(piece, [])
        if piece.doc and not named:
            left.append(self.prose(piece.doc.partition("\n\n")[2], notes))
        else:
            left += map(self.note, notes)
        if piece.users:
            links = ", ".join(self.link(user, user.removeprefix(f"{source.module}."))
                              for user in piece.users)
            few = " open" * (len(piece.users) < 9)
            left.append(f'<details class="users"{few}><summary>used by {len(piece.users)}</summary>'
                        f"{links}</details>")
        figures = pictures.beside(piece.name if named or piece.doc else "", self)
        wide = 'class="curves"' in "".join(figures) or 'class="sheet"' in "".join(figures)
        left += [] if wide else figures
        for part in pieces:
            numbers = "\n".join(map(str, range(part.first, part.last + 1)))
            code = (f'<div class="code"><pre class="n" aria-hidden="true">{numbers}</pre>'
                    f"<pre>{part.html}</pre></div>")
            right.append(code if named or not part.doc else
                         f"<details><summary>the docstring as it stands</summary>{code}</details>")
        proofs = self.proofs(source.module, piece.name) if named else {}
        for kind in ("proved by", "of the same equation"):
            if kind in proofs.values():
                tests = [self.test(*test, kind) for test in proofs if proofs[test] == kind]
                right.append(f'<div class="tests">{kind}{"".join(tests)}</div>')
        more = [self.test(*test, kind) for test, kind in proofs.items() if kind == "calls it"]
        if more:
            right.append(f'<details class="tests"><summary>{len(more)}'
                         f'{" more" * (len(more) < len(proofs))} test'
                         f'{"s call" if len(more) > 1 else " calls"} it</summary>{"".join(more)}'
                         "</details>")
        right += figures if wide else []
        mark = f' id="{piece.name}"' if named else ""
        row = (f'<section class="row"{mark}><div class="paper">{"".join(left)}</div>'
               f'<div>{"".join(right)}</div></section>')
        other = next((keys for name, keys in OTHERS.items()
                      if f"{piece.name}.".startswith(f"{name}.")), "-")
        return re.sub(rf' data-s="({other.replace(" ", "|")})"', "", row)

    def file(self, source):
        title = self.text(" ".join(source.doc.split("\n\n")[0].split()))
        first = 1 if source.pieces[1].name in self.known else 2
        rows = [source.pieces[:first], *([piece] for piece in source.pieces[first:])]
        return (f'<article id="{source.module}"><h2>{source.path}<small>{title}</small></h2>'
                f'{"".join(self.row(source, pieces) for pieces in rows)}</article>')

    def roads(self):
        out = []
        for title, (command, places) in ROADS.items():
            steps = "".join(f"<li>{self.link(at)} {self.text(says)}</li>" for at, says in places)
            out.append(f"<div><h3>{title}</h3><p><code>{command}</code></p><ol>{steps}</ol></div>")
        return f'<div class="two">{"".join(out)}</div>'

    def table(self):
        head = ("paper", "here", "diffusers", "OpenAI", "in the code")
        rows = ["<tr>" + "".join(f"<th>{title}</th>" for title in head) + "</tr>"]
        for row in notation():
            names, key = re.findall(r"`(\w+)", row[1]), re.search(r"\w+", row[1])[0]
            marked = rf'data-s="{self.names.get(key)}">{key}<'
            marked += r".*t</u> - 1" * ("t - 1" in row[1])
            where = [piece.name for source in self.sources[:len(CORE)] for piece in source.pieces
                     if piece.name in self.known and re.search(marked, piece.html)]
            where += [f"ddpm.DDPM.{name}" for name in names if f"ddpm.DDPM.{name}" in self.known]
            links = ", ".join(self.link(at, at.split(".", 1)[1]) for at in dict.fromkeys(where))
            cells = "".join(f"<td>{self.text(cell)}</td>" for cell in row)
            rows.append(f"<tr>{cells}<td>{links}</td></tr>")
        return f'<div class="wide"><table>{"".join(rows)}</table></div>'

    def departures(self):
        items = section("Where this differs from the paper").strip().removeprefix("- ")
        items = "".join(f"<li>{self.text(' '.join(item.split()))}</li>"
                        for item in items.split("\n- "))
        own = "".join(f"<dt>{self.link(piece.name)}</dt><dd>{self.text(text)}</dd>"
                      for piece, notes in self.notes.items() for text in notes)
        return f"<ul>{items}</ul><h3>As the docstrings have it</h3><dl>{own}</dl>"

    def index(self):
        out = ["<h3>By equation</h3>"]
        for paper, about in EQUATIONS.items():
            rows = [f'<li id="{slug(paper, number)}"><b>{number}</b> &ndash; '
                    + self.text(equation.says, letters_of(paper)) + " &ndash; "
                    + " ".join(map(self.link, equation.code.split())) + "</li>"
                    for number, equation in about.equations.items()]
            out.append(f'<h4>{html.escape(paper)}, <a href="{about.link}">{about.title}</a></h4>'
                       f'<p class="at">{html.escape(about.text)}</p><ul>{"".join(rows)}</ul>')
        links = [self.link(source.module, source.path) for source in self.sources[len(CORE):]
                 if not any(piece.name in self.implements for piece in source.pieces)]
        out.append(f'<p>Here without an equation: {", ".join(links)}.</p>')
        out.append('<h3>By symbol</h3><p>The <a href="#notation">notation</a> says where each '
                   "symbol stands in the code.</p><h3>By file</h3><dl>")
        for source in self.sources:
            links = [self.link(piece.name, piece.name[len(source.module) + 1:])
                     for piece in source.pieces if piece.name in self.known]
            out.append(f'<dt><a href="#{source.module}">{source.path}</a></dt><dd>'
                       f'{" ".join(links)}</dd>')
        return "".join(out) + "</dl>"

    def contents(self):
        groups = {"": [("roads", "two roads"), ("notation", "notation")], "six files": [],
                  "papers/": [], "papers/kit/": [], " ": [("departures", "departures"),
                                                          ("index", "index")]}
        for source in self.sources:
            room = source.path.rpartition("/")[0]
            groups[f"{room}/" if room else "six files"].append(
                (source.module, source.module.rpartition(".")[2]))
        return "".join(f"<p>{title}</p><ul>" + "".join(
            f'<li><a href="#{at}">{text}</a></li>' for at, text in items) + "</ul>"
            for title, items in groups.items())

    def __str__(self):
        here = Path(__file__).parent
        parts = {"style": (here / "page.css").read_text(encoding="utf-8"),
                 "script": (here / "page.js").read_text(encoding="utf-8"),
                 "samples": pictures.beside("sample.draw", self)[0],
                 "contents": self.contents(), "roads": self.roads(), "notation": self.table(),
                 "files": "".join(map(self.file, self.sources)),
                 "departures": self.departures(), "index": self.index()}
        parts["defs"] = self.typeset.defs()          # the last: now all that is used is known
        page = (here / "page.html").read_text(encoding="utf-8")
        return re.sub(r"<!--(\w+)-->", lambda part: parts[part[1]], page)


def letters_of(paper):
    return "ours" if paper in SAME_LETTERS else paper if paper in LETTERS else ""


def slug(*names):
    return re.sub(r"\W+", "-", " ".join(names))


def test_file(module):
    """Return the file that has the tests of a module."""
    *rooms, name = module.split(".")
    return "/".join(["tests", *rooms, f"test_{name}.py"])


def test_path(test, code):
    """Return (file, name) of a test as equations.py names it: of `code`, or FILE.NAME."""
    where, _, name = test.rpartition(".")
    if not where:
        where = code.split()[0]
        while not (ROOT / where.replace(".", "/")).with_suffix(".py").is_file():
            where = where.rpartition(".")[0]
    return test_file(where), f"test_{name}"


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
