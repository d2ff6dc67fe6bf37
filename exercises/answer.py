"""A handout in a notebook: %%answer writes a cell into the file that is graded, %check checks it.

    %load_ext exercises.answer
    %%answer ddpm.DDPM.q_sample           the function below goes into ddpm.py
    %check 2                              exercise 2, in a new Python
    %%draw samples.png                    the program below runs in a new Python; its picture
"""
import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def locate(name):
    """Split "papers.experiments.decode" into its module, "papers/experiments", and the rest."""
    parts = name.split(".")
    n = next((n for n in (1, 2, 3) if (ROOT / "/".join(parts[:n])).with_suffix(".py").is_file()), 0)
    if n == 0:
        raise ValueError(f"there is no module of {name}")
    return "/".join(parts[:n]), ".".join(parts[n:])


def functions(source):
    """Return {name: node} of a module's functions and methods, as "at" and "DDPM.q_sample"."""
    found = {}
    for top in ast.parse(source).body:
        of_class = isinstance(top, ast.ClassDef)
        for node in top.body if of_class else [top]:
            if isinstance(node, ast.FunctionDef):
                found[f"{top.name}.{node.name}" if of_class else node.name] = node
    return found


def span(node):
    """Return the lines of a function, from 0, last excluded, with its decorators."""
    return min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1, node.end_lineno


def is_docstring(statement):
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def replace_body(source, name, text):
    """Return the source of a module with another body for one of its functions.

    Decorators, signature and docstring stay.

    Raises:
        ValueError: there is no such function.
    """
    node = functions(source).get(name)
    if node is None:
        raise ValueError(f"there is no {name} in this source")
    statement = node.body[0]
    first = statement.end_lineno if is_docstring(statement) else statement.lineno - 1
    indent, lines = " " * statement.col_offset, source.splitlines(keepends=True)
    new = [(indent + line).rstrip() + "\n" for line in text.splitlines()]
    return "".join(lines[:first] + new + lines[node.end_lineno:])


def put(source, name, cell):
    """Return the source of a module with the body that a cell has for one of its functions.

    name: as "DDPM.q_sample"; "" takes the cell for the whole file.

    Raises:
        ValueError: the cell is not that function and nothing else, or cannot be read.
    """
    try:
        statements = ast.parse(cell).body
        if name:
            short, there = name.rpartition(".")[2], functions(source).get(name)
            if [getattr(each, "name", "") for each in statements] != [short] \
                    or not isinstance(statements[0], ast.FunctionDef):
                raise ValueError(f"this cell must hold the function {short} and nothing else: "
                                 "imports and helpers go inside it")
            node, lines = statements[0], cell.splitlines()
            if there and arguments(there) != arguments(node):
                raise ValueError(f"{short} takes ({', '.join(arguments(there))}): leave that as it "
                                 "is")
            skip = is_docstring(node.body[0]) and len(node.body) > 1
            statement = node.body[skip]
            first = node.body[0].end_lineno if skip else statement.lineno - 1
            lines[statement.lineno - 1] = " " * statement.col_offset + lines[
                statement.lineno - 1].encode()[statement.col_offset:].decode()
            indent = re.compile(rf"\s{{0,{statement.col_offset}}}")
            cell = replace_body(source, name, "\n".join(indent.sub("", line, count=1)
                                                        for line in lines[first:]))
        ast.parse(cell)
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno} of this cell: {error.msg}") from None
    return cell if name else cell.rstrip("\n") + "\n"


def arguments(node):
    return [each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)]


# ---- in Jupyter ----

def answer(line, cell):
    """Write the function in this cell into its file, or a whole file: %%answer NAME"""
    try:
        file, name = locate(line.strip())
        path = ROOT / f"{file}.py"
        source = put(path.read_text(encoding="utf-8"), name, cell)
    except ValueError as error:
        print(f"{line.strip()} was NOT written: {error}", file=sys.stderr)
        return
    path.write_text(source, encoding="utf-8", newline="")
    print(f"written to {file}.py")


def check(line):
    """Check one exercise, or go on where you are: %check 2 or %check"""
    only = ["-k", f"{int(line):02}:"] if line.strip() else []
    print(python("-m", "pytest", *only).stdout)


def draw(line, cell):
    """Run this cell as a program of its own and show the picture that it writes: %%draw FILE"""
    from IPython.display import Image, display
    picture = ROOT / line.strip()
    picture.unlink(missing_ok=True)
    done = python("-c", cell)
    if picture.exists():
        display(Image(picture.read_bytes()))
    else:
        why = re.search(r"NotImplementedError: .*", done.stderr)
        print(f"no picture yet: {why[0] if why else done.stderr.strip().rpartition(chr(10))[2]}",
              file=sys.stderr)


def python(*argv):
    one_thread = {"OMP_NUM_THREADS": "1", **os.environ}          # two may wait for a busy core
    return subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, env=one_thread,
                          encoding="utf-8", errors="replace")


def load_ipython_extension(ipython):
    for name, magic in (("answer", answer), ("draw", draw)):
        ipython.register_magic_function(magic, "cell", name)
    ipython.register_magic_function(check, "line", "check")
