"""Give a hint, the first unless told:  python -m exercises.hint EXERCISE [1, 2 or 3]"""
import re
import sys
from pathlib import Path

TEXTS = Path(__file__).resolve().parent / "texts"


def sections(text):
    """Split a Markdown file at its second-level headings into {heading: what stands below it}.

    What comes before the first is under "".
    """
    head, *others = re.split(r"^## ", text, flags=re.M)
    return {"": head, **{name.strip(): body.strip() for name, _, body in (
        section.partition("\n") for section in others)}}


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    numbers = [int(text) for text in argv if re.fullmatch("[0-9]{1,2}", text)]
    path = TEXTS / f"{numbers[0]:02}.md" if numbers else TEXTS
    level = numbers[1] if len(numbers) > 1 else 1
    if len(numbers) != len(argv) or len(argv) > 2 or not path.is_file() or not 1 <= level <= 3:
        there = ", ".join(str(int(path.stem)) for path in sorted(TEXTS.glob("*.md")))
        sys.exit(f"{__doc__}\nThere are hints for the exercises {there}.")
    print(sections(path.read_text(encoding="utf-8"))[f"Hint {level}"])
    if level < 3:
        print(f"\nMore: python -m exercises.hint {numbers[0]} {level + 1}")


if __name__ == "__main__":
    main()
