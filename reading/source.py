"""Python files in pieces, one for each function, and as highlighted HTML with links."""
import ast
import html
import io
import keyword
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Piece:
    """Some lines of a file: a function, the head of a class, or what stands between them.

    name is as in equations.py, such as ddpm.DDPM.q_sample, or the module's; first and last count
    lines from 1; users are the names of the pieces that refer to it.
    """

    def __init__(self, name, first, last, doc):
        self.name, self.first, self.last, self.doc, self.users = name, first, last, doc, []


class Source:
    """A file of Python: its module, path, text, docstring and pieces."""

    def __init__(self, path):
        self.path, self.module = path, path.removesuffix(".py").replace("/", ".")
        self.text = (ROOT / path).read_text(encoding="utf-8")
        self.lines = self.text.splitlines(keepends=True)
        self.tree = ast.parse(self.text)
        self.tokens = list(tokenize.generate_tokens(io.StringIO(self.text).readline))
        self.doc = ast.get_docstring(self.tree) or ""
        self.pieces, self.imports, self.keywords = list(self.cut()), {}, set()
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                room = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                self.imports |= {alias.asname or alias.name: room + alias.name
                                 for alias in node.names}
            elif isinstance(node, ast.keyword):
                self.keywords.add((node.lineno, node.col_offset))
        self.bases = {f"{self.module}.{node.name}": list(self.named(*node.bases))
                      for node in self.tree.body if isinstance(node, ast.ClassDef)}

    def named(self, *nodes):
        """Yield what is named there: "module.name", or ".name" of what is in no module."""
        for node in (inner for outer in nodes for inner in ast.walk(outer)):
            if isinstance(node, ast.Name):
                yield self.imports.get(node.id, f"{self.module}.{node.id}")
            elif isinstance(node, ast.Attribute):
                owner = self.imports.get(getattr(node.value, "id", None), "")
                yield f"{owner}.{node.attr}"

    def uses(self):
        """Return {name of a function, class or constant: what is named in it, and so called}.

        Not what a function has as defaults, but of tests the arguments, which are fixtures.
        """
        found = {name: {".__init__", ".forward", *bases} for name, bases in self.bases.items()}
        todo = [(self.module, node) for node in self.tree.body]
        for room, node in todo:
            if isinstance(node, ast.ClassDef):
                todo += [(f"{room}.{node.name}", part) for part in node.body]
            elif isinstance(node, ast.Assign):
                found |= dict.fromkeys(self.named(*node.targets), set(self.named(node.value)))
            elif isinstance(node, ast.FunctionDef):
                found[f"{room}.{node.name}"] = set(self.named(*node.body))
                if self.module.startswith("tests."):
                    found[f"{room}.{node.name}"] |= set(self.named(*node.decorator_list)) | {
                        f"{room}.{given.arg}" for given in node.args.args}
        return found

    def cut(self):
        """Yield the pieces; comments go with the function below them."""
        parts = []                                   # name, first line, last line, docstring
        for node in self.tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                name, end = f"{self.module}.{node.name}", node.end_lineno
                inner = [child for child in node.body if isinstance(child, ast.FunctionDef)]
                inner = inner if isinstance(node, ast.ClassDef) else []
                if inner:
                    end = max([node.lineno, *(child.end_lineno for child in node.body
                                              if child.end_lineno < inner[0].lineno)])
                parts.append((name, first_line(node), end, ast.get_docstring(node)))
                parts += [(f"{name}.{child.name}", first_line(child), child.end_lineno,
                           ast.get_docstring(child)) for child in inner]
        at, doc = 1, self.doc
        for name, first, last, own in [*parts, ("", len(self.lines) + 1, 0, "")]:
            code = [n for n in range(at, first) if self.lines[n - 1].split("#")[0].strip()]
            if code and doc:
                yield Piece(self.module, 1, self.tree.body[0].end_lineno, doc)
                at, doc = self.tree.body[0].end_lineno + 1, ""
                code = [n for n in code if n >= at]
            if code:
                yield Piece(self.module, code[0], code[-1], doc)
                at, doc = code[-1] + 1, ""
            while at < first and not self.lines[at - 1].strip():
                at += 1
            if name:
                yield Piece(name, at, last, own or "")
                at = last + 1

    def highlight(self, piece, symbols, known):
        """Return a piece as HTML, and the names in `known` that it refers to.

        Args:
            symbols: {name in code: key}; such names become spans with data-s="key".
            known: set of the names of all modules and pieces; what names one of them becomes a
                link, of methods those of `self` and of `ddpm`, which is always a DDPM.
        """
        objects = {"self": piece.name.rpartition(".")[0], "ddpm": "ddpm.DDPM"}
        words = "|".join(sorted((word for word in symbols if len(word) > 1), key=len, reverse=True))
        words = re.compile(rf"(?<![\w.])({words or '(?!)'})(?![a-zA-Z0-9]|-bar|-tilde)")
        text = "".join(self.lines[piece.first - 1:piece.last])
        begin = [0]
        for line in text.splitlines(keepends=True):
            begin.append(begin[-1] + len(line))
        out, at, seen, before, name = [], 0, [], ["", "", ""], ""
        for token in self.tokens:
            row = token.start[0] - piece.first
            if not (0 <= row < len(begin) - 1) or not token.string.strip():
                continue
            start = begin[row] + token.start[1]
            end = begin[token.end[0] - piece.first] + token.end[1]
            if start < at:
                continue
            word = text[start:end]
            shown, tag, attributes = html.escape(word, quote=False), "", ""
            if token.type == tokenize.COMMENT:
                tag = "i"
            elif word.startswith('"""'):
                shown = words.sub(lambda found: f'<u data-s="{symbols[found[1]]}">{found[1]}</u>',
                                  shown)
                tag = "q"
            elif token.type == tokenize.STRING or tokenize.tok_name[token.type].startswith("FSTR"):
                tag, attributes = "span", ' class="s"'
            elif keyword.iskeyword(word):
                tag = "b"
            elif token.type == tokenize.NAME:
                if before[-1] == ".":
                    name = f"{name}.{word}" if before[-2].isidentifier() else ""
                elif before[-1] == "from" and before[-2] != "yield":
                    name = word
                else:
                    name = (objects | self.imports).get(word, f"{self.module}.{word}")
                key = symbols.get(word) if word not in self.imports else None
                if token.start in self.keywords:
                    pass
                elif before[-1] in ("def", "class"):
                    tag, attributes = "span", ' class="f"'
                elif name in known and name != objects.get(word):
                    tag, attributes = "a", f' href="#{name}"'
                    seen.append(name)
                elif key:
                    tag = "u"
                attributes += f' data-s="{key}"' if key and tag else ""
            out += [html.escape(text[at:start], quote=False),
                    f"<{tag}{attributes}>{shown}</{tag}>" if tag else shown]
            at, before = end, [*before[1:], word]
        return "".join(out) + html.escape(text[at:].rstrip("\n"), quote=False), seen


def first_line(node):
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def departures(source):
    """Yield (piece, text): what the source says of where the code leaves a paper.

    That is a comment, or a paragraph of a docstring but the first and the lists of arguments, that
    names a paper or its authors, and what is "not" so, "instead", "here" or "ours"; or "depart".
    """
    for piece in source.pieces:
        text = "".join(source.lines[piece.first - 1:piece.last])
        notes = [note.replace("#", " ") for note in re.findall(r"# (.*(?:\n *# .*)*)", text)]
        for part in re.split(r"\n\s*\n", piece.doc)[1:] + notes:
            if re.search(r"[Dd]epart", part) or not re.match(r" |\w+:\n", part) and re.search(
                    r"\b([Pp]aper|authors|listing)\b", part) and re.search(
                    r"\b([Hh]ere|[Nn]ot|instead|ours?)\b", part):
                yield piece, " ".join(part.split())
