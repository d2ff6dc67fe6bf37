"""Give a hint, the first unless told: python hint.py EXERCISE [1, 2 or 3]"""
import sys
from pathlib import Path


def main(argv):
    numbers = [int(text) if text.isdecimal() else 0 for text in argv]
    number, level = (numbers + [1])[:2] if numbers else (0, 1)
    path = Path(__file__).parent / "hints" / f"{number}-{level}.md"
    if not path.exists():
        sys.exit(__doc__)
    print(path.read_text(encoding="utf-8").strip())
    if level < 3:
        print(f"\nMore: python hint.py {number} {level + 1}")


if __name__ == "__main__":
    main(sys.argv[1:])
