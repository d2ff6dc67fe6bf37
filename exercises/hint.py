"""Give a hint, the first unless told:  python -m exercises.hint EXERCISE [1, 2 or 3]"""
import re
import sys
from pathlib import Path

from exercises.answer import locate

TEXTS = Path(__file__).resolve().parent / "texts"


class Exercise:
    """One exercise, as its Markdown file says: title, minutes, blanks, task, hints, rubric.

    Of a section or a fact "Task (variant 1)" stands instead of "Task" in that variant.
    """

    def __init__(self, path, variant=0):
        self.number, self.variant = int(path.stem), variant
        self.sections = sections(path.read_text(encoding="utf-8"))
        title, _, facts = self.sections.pop("").partition("\n")
        self.title = title.removeprefix("# ").strip()
        self.sections |= dict(line.split(": ", 1) for line in
                              facts.replace(",\n", ", ").strip().splitlines())
        self.minutes = int(self["minutes"])
        self.blanks = self["blanks"].split(", ")                 # as ddpm.DDPM.q_sample
        self.files = sorted({f"{locate(name)[0]}.py" for name in self.blanks})

    def __getitem__(self, name):
        return self.sections.get(f"{name} (variant {self.variant})", self.sections.get(name))


def sections(text):
    """Split a Markdown file at its second-level headings into {heading: what stands below it}.

    What comes before the first is under "".
    """
    head, *others = re.split(r"^## ", text, flags=re.M)
    return {"": head, **{name.strip(): body.strip() for name, _, body in (
        section.partition("\n") for section in others)}}


def exercises(variant=0):
    """Return {number: Exercise} of all there are."""
    return {int(path.stem): Exercise(path, variant) for path in sorted(TEXTS.glob("*.md"))}


def main(argv=None):
    argv, there = sys.argv[1:] if argv is None else argv, exercises()
    try:
        number, level = map(int, (*argv, 1) if len(argv) == 1 else argv)
        hint = there[number].sections[f"Hint {level}"]
    except (ValueError, KeyError):
        sys.exit(f"{__doc__}\nThere are hints for the exercises {', '.join(map(str, there))}.")
    print(hint)
    if level < 3:
        print(f"\nMore: python -m exercises.hint {number} {level + 1}")


if __name__ == "__main__":
    main()
