"""Read what was handed in, as course systems pack it, before any of it runs.

A submission is a folder or a zip of a handout, in whatever folders within; or loose files, renamed
("doejane_12345_ddpm.py", "ddpm (1).py", "jane.py"), which are known by their names or by the
functions that they define; or the notebook.  Nothing that was handed in is passed over in silence.
"""
import ast
import io
import json
import re
import zipfile
from pathlib import PurePosixPath

from exercises import make
from exercises.answer import functions, locate, put
from exercises.hint import sections
from plumbing.files import nobodys

LARGEST = 2 ** 20                                    # bytes of code; a notebook has pictures
READ = (".py", ".ipynb", ".md", ".zip")              # of all else only the name is looked at
PACKED = (".tar", ".gz", ".tgz", ".xz", ".bz2", ".rar", ".7z")     # and these are not opened
# Doe, Jane may hand in doejane_LATE_12345_678_ddpm-1.py, or one "ddpm (2).py".
RENAMED = r"(?:^|.*[\W_]){}(?:[ _-]*\(?\d+\)?| copy)?"
SUSPECT = {"checks", "inspect", "gc", "ctypes", "subprocess", "socket", "atexit", "_exit", "fork",
           "_getframe", "currentframe", "f_back", "f_locals", "tb_frame", "from_file", "kill",
           "open", "exec", "eval", "glob", "addaudithook", "settrace", "setprofile", "rmtree",
           "__subclasses__", "get_referrers"}


def read(path, most=64 * LARGEST):
    """Return {name: bytes, or a ValueError} of all files of a folder, and of the zips in it.

    path: Path of a folder, or a file of a zip.
    """
    found = {}
    if hasattr(path, "is_dir") and path.is_dir():
        there = [(each.relative_to(path).as_posix(), lambda each=each: opened(each))
                 for each in sorted(path.rglob("*")) if each.is_file()]
    else:
        try:
            archive = zipfile.ZipFile(path)
            there = [(info.filename.replace("\\", "/").removeprefix("./"),
                      lambda info=info: archive.open(info))
                     for info in archive.infolist() if not info.is_dir()]
        except Exception as error:                   # of a damaged zip: anything
            return {"": ValueError(str(error))}
    for name, opens in there:
        parts, content = PurePosixPath(name).parts, b""
        if any(nobodys(part) or part == ".." for part in parts) or "assets" in parts[:-1]:
            continue
        try:
            if name.lower().endswith(READ):
                limit = LARGEST if name.lower().endswith(".py") else most
                with opens() as file:
                    content = file.read(limit + 1)
                if len(content) > limit:
                    raise ValueError(f"it has more than {limit:,} bytes")
        except Exception as error:                   # the same
            content = ValueError(str(error))
        if name.lower().endswith(".zip") and isinstance(content, bytes):
            for inner, each in read(io.BytesIO(content), most // 4).items():
                found[f"{name[:-4]}/{inner}".rstrip("/") if inner else name] = each
        else:
            found[name] = content
    return found


def opened(path):
    if path.is_symlink():
        raise ValueError("it is a link")
    return path.open("rb")


def submissions(path, wanted, one=False):
    """Return {who: {name: bytes, or a ValueError}} of all that was handed in.

    Args:
        path: Path of a folder or a zip that holds a folder, a zip or loose files for each student;
            or, where a file of those wanted lies in it by its own name, of one submission.
        wanted: names of the files that exercises ask for, as "papers/kit/analytic.py".
        one: it is one submission in any case, also if it is a single file.

    Raises:
        FileNotFoundError: there is no such path.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if path.is_file() and path.suffix.lower() != ".zip":
        return {path.stem: {path.name: path.read_bytes()}}
    files = read(path)
    if one or set(files) & {*wanted, "exercises.ipynb"}:
        return {path.stem if path.is_file() else path.resolve().name: files}
    unpacked, everyone = False, {}
    if path.is_dir():                                # who handed in a folder without a file
        everyone = {each.name: {} for each in sorted(path.iterdir())
                    if each.is_dir() and not nobodys(each.name)}
    for name, content in files.items():
        who, _, inner = name.partition("/")
        if not inner:
            unpacked, (who, inner) = True, loose(name, wanted)
        everyone.setdefault(who, {})[inner] = content
    if len(everyone) == 1 and not unpacked and path.suffix.lower() == ".zip":
        inside, = everyone.values()                  # a zip that has one folder around all
        again = {each.partition("/")[0] for each in inside}
        if not any(called(each, wanted) for each in inside) and len(again) > 1:
            return {who: {name.partition("/")[2]: content for name, content in inside.items()
                          if name.partition("/")[0] == who} for who in sorted(again)}
    return dict(sorted(everyone.items()))


def called(name, wanted):
    """Return which of the files wanted has this name, perhaps changed by a course system."""
    path = PurePosixPath(name)
    for file in wanted:
        if path.suffix.lower() == ".py" and re.fullmatch(
                RENAMED.format(re.escape(PurePosixPath(file).stem)), path.stem, re.I):
            return file
    return None


def loose(name, wanted):
    """Return who handed in a loose file, and its name without that."""
    path = PurePosixPath(name)
    file = called(name, wanted)
    stem = PurePosixPath(file).stem if file else "exercises" if path.suffix == ".ipynb" else ""
    place = max(0, path.stem.lower().rfind(stem)) if stem else 0
    who = re.sub(r"(_LATE)?(_\d+)(_\d+)?$", r"\2", path.stem[:place].strip(" _-"))
    return (who, name[place:]) if who else (path.stem, name)


class Taken:
    """What is taken of a submission.

    files: {name: bytes, or a ValueError}, as `submissions` gives it.
    chosen: list of Exercise.
    blank: function of a file's name that gives its source in the handout.

    sources: {file: source} of the files that the exercises name, as far as they are there.
    answers: {number of an exercise: what was answered to its question in writing}.
    remarks: list of what the teacher should know.
    """

    def __init__(self, files, chosen, blank):
        self.files = {name: each for name, each in files.items() if isinstance(each, bytes)}
        self.blank = blank
        self.asked = {name: locate(name) for exercise in chosen for name in exercise.blanks}
        self.sources, self.answers, self.remarks, self.used = {}, {}, [], set()
        wanted = sorted({file for exercise in chosen for file in exercise.files})
        root, self.bad = self.root(wanted), set()    # files that are there and no Python
        for found in (lambda file: ["/".join((*root, file))],
                      lambda file: sorted(name for name in self.files if called(name, [file])),
                      lambda file: [name for name in self.files if self.defines(name, file)]):
            for file in wanted:
                if file not in self.sources:
                    self.take(file, found(file), "/".join((*root, file)))
        self.write_down()
        self.read_notebooks()
        damaged = {name: error for name, error in files.items() if name not in self.files}
        self.bad |= {called(name, wanted) for name in damaged}
        self.remarks += [f"{name or 'it'} cannot be read: {str(error) or 'it is damaged'}"
                         for name, error in damaged.items()]
        self.remarks += [f"there is no {file}" for file in wanted
                         if file not in self.sources and file not in self.bad]
        inside = "".join(f"{part}/" for part in root)            # what the handout has
        handed = tuple(inside + name for name in (
            *make.MODULES, "conftest.py", "checks/", "papers/", "exercises/", "exercises.ipynb"))
        rest = [name for name in self.files if name.lower().endswith((".py", ".ipynb", *PACKED))
                and name not in self.used and not name.startswith(handed)]
        if rest:
            self.remarks.append(f"left alone: {', '.join(rest[:5])}{', ...' * (len(rest) > 5)}")
        for file, source in self.sources.items():
            self.look(file, source)

    def root(self, wanted):
        """Return the folder, as a tuple of parts, in which most of the files are."""
        roots = {PurePosixPath(name).parts[:-len(PurePosixPath(file).parts)]
                 for name in self.files for file in wanted if f"/{name}".endswith(f"/{file}")}

        def has(root):
            return sum("/".join((*root, file)) in self.files for file in wanted)

        return min(roots, key=lambda root: (-has(root), len(root), root), default=())

    def take(self, file, names, its_own):
        """Take the last of these that is Python for a file that is wanted; say so if it is called
        otherwise than `its_own`."""
        for name in reversed([each for each in names if each in self.files.keys() - self.used]):
            self.used.add(name)
            try:
                source = self.files[name].decode("utf-8-sig")
                ast.parse(source, file)
            except Exception as error:               # deeply nested, other encodings: anything
                self.remarks.append(f"{name} cannot be read: {error}")
                self.bad.add(file)
                continue
            self.sources[file] = source
            if name != its_own:
                self.remarks.append(f"{name} is taken for {file}")
            return

    def defines(self, name, file):
        """Does a file of any name define what the exercises ask for in that file?"""
        if name in self.used or not name.endswith(".py"):
            return False
        try:
            there = functions(self.files[name].decode("utf-8-sig"))
        except Exception:                            # no Python: `take` says so
            return len({module for module, _ in self.asked.values()}) == 1 and "/" not in name
        return any(function in there for module, function in self.asked.values()
                   if f"{module}.py" == file)

    def write_down(self):
        """Read the answers in writing."""
        for name, content in self.files.items():
            if name.lower().endswith("answers.md"):
                self.used.add(name)
                for title, text in sections(content.decode("utf-8", "replace")).items():
                    self.answer(title, text.partition("Your answer:")[2])

    def answer(self, title, text):
        number = re.match(r"\d+", title)
        if number and text.strip():
            self.answers.setdefault(int(number[0]), text.strip())

    def read_notebooks(self):
        """Take what a notebook answers, where no file does."""
        for name, content in self.files.items():
            if not name.lower().endswith(".ipynb"):
                continue
            self.used.add(name)
            try:
                cells = [(cell.get("metadata", {}), "".join(cell.get("source", ())))
                         for cell in json.loads(content)["cells"]]
                met = 0
                for facts, text in reversed(cells):  # a later one is what ran last
                    self.answer(str(facts.get("question", "")), text.partition("Your answer:")[2])
                    first, _, body = text.partition("\n")
                    told = re.match(r"%%answer\s+(\S+)", first)
                    for blank, (module, function) in self.asked.items():
                        short = function.rpartition(".")[2] or " "
                        if told and told[1] == blank or not told and re.match(
                                rf"(@.*\n)*def {short}\(", text):
                            self.put(module, function, body if told else text, name)
                            met += 1
                if not met:
                    self.remarks.append(f"{name}: no cell is %%answer and a function, or a "
                                        "function that is asked for")
            except Exception as error:               # of what is no notebook: anything
                self.remarks.append(f"{name} cannot be read: {error}")

    def put(self, module, function, text, name):
        """Put a cell's function into its file, unless the file that was handed in has it."""
        file = f"{module}.py"
        source = self.sources.get(file) or self.blank(file)
        there = functions(source).get(function)
        if file in self.sources and not (
                there and "NotImplementedError" in ast.unparse(there)):
            return
        try:
            self.sources[file] = put(source, function, text)
        except (SyntaxError, ValueError) as error:
            self.remarks.append(f"{name}, {function or module}: {error}")

    def look(self, file, source):
        """Remark on what an answer has no use for, and a teacher should read."""
        ours = {*names(self.blank(file))}
        odd = sorted({name for name in names(source) if name.split(".")[-1] in SUSPECT
                      or "." in name and name.startswith("=")} - ours)
        if odd:
            self.remarks.append(f"read {file}: it has " + ", ".join(
                f"{name[1:]} = ..." if name.startswith("=") else name for name in odd))


def names(source):
    """Yield the names in a source, and "=torch.equal" where an attribute of a module is set."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
            yield from (part for alias in node.names
                        for part in f"{getattr(node, 'module', '')}.{alias.name}".split("."))
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) \
                and node.value.isidentifier():
            yield node.value
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            text = ast.unparse(target) if isinstance(target, ast.Attribute) else ""
            if text.split(".")[0] in modules:
                yield f"={text}"
