"""Every picture of the papers in one go, with an index that says which command made which.

    python -m papers.gallery [--folder gallery] [--only ddim dps]

Each program runs as its line below says, with the networks that ship, and some with fewer images
than by default: all of it within 15 minutes on two cores.  index.html shows the commands, what they
printed, and the pictures.
"""
import contextlib
import html
import importlib
import io
import time
from pathlib import Path

from papers.kit.program import program
from plumbing.cli import Parser, integer
from plumbing.files import replacing
from sample import SHIPPED

CORE = "--checkpoint assets/digits.pt"
COMMANDS = {                                         # of each program, but for --seed and --out
    "processes": CORE,
    "variational_bound": f"{CORE} --n 32",
    "ddim": f"{CORE} --n 16",
    "pndm": CORE,
    "dpm_solver": CORE,
    "parameterisations": CORE,
    "edm": CORE,
    "flow_matching": "",
    "consistency": "",
    "dit": "",
    "improved_ddpm": "--n 4",
    "score_sde": f"{CORE} --n 16",
    "ncsn": CORE,
    "score_matching": CORE,
    "compare": f"{CORE} --n 64",
    "classifier_guidance": CORE,
    "classifier_free_guidance": "",
    "repaint": CORE,
    "sdedit": CORE,
    "dps": CORE,
    "super_resolution": "",
    "latent_diffusion": "",
    "text_to_image": "",
    "clip": f"{CORE} --n 30",
    "stable_diffusion": "",
    "time_features": CORE,
    "score_distillation": "",
    "shapes": "",
    "star_shaped": CORE,
    "other_spaces": CORE,
    "anomaly": f"{CORE} --n 32",
    "bits": CORE,
}
PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Gallery</title>
<style>body {{ font-family: sans-serif; max-width: 75em; margin: auto }} img {{ max-width: 100% }}
pre {{ background: #eee; padding: 0.7em; white-space: pre-wrap }}</style>
<h1>Gallery</h1>
{}
"""
ENTRY = """<h2 id="{name}">{title}</h2>
<pre>{command}

{output}</pre>
<p>{seconds:.0f} seconds</p>
{picture}"""


def make(name, options, seed, folder):
    """Run one program; return its entry in the index, and whether it ended well."""
    module = importlib.import_module(f"papers.{name}")
    command = f"{options} --seed {seed} --out".strip()
    argv = [str(SHIPPED.parent / Path(word).name) if word.startswith("assets/") else word
            for word in command.split()]
    path, printed, since = folder / f"{name}.png", io.StringIO(), time.monotonic()
    path.unlink(missing_ok=True)
    try:
        with contextlib.redirect_stdout(printed):
            module.main([*argv, str(path)])
    except SystemExit as error:                      # one_line_errors has said why
        if error.code in (130, 141):                 # Ctrl-C, or nobody reads: the end of all
            raise
        print(f"exit with {error.code}", file=printed)
    good = path.exists()
    picture = f'<img src="{name}.png" alt="{name}">' if good else "<p>There is no picture.</p>"
    title = module.__doc__.splitlines()[0]
    return ENTRY.format(name=name, title=html.escape(title), seconds=time.monotonic() - since,
                        command=html.escape(f"python -m papers.{name} {command} {name}.png"),
                        output=html.escape(printed.getvalue()), picture=picture), good


def run(args):
    entries, bad = [], []
    for name in args.only or COMMANDS:
        print(f"{name}: papers/{name}.py", flush=True)
        entry, good = make(name, COMMANDS[name], args.seed, args.folder)
        entries.append(entry)
        bad += [] if good else [name]
        with replacing(args.folder / "index.html") as tmp:
            tmp.write_text(PAGE.format("\n".join(entries)), encoding="utf-8")
    if bad:
        raise OSError(f"no picture of {', '.join(bad)}: above it says why")
    print(f"wrote {args.folder / 'index.html'}")


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--folder", type=Path, default=Path("gallery"), help="(gallery)")
    parser.add_argument("--only", nargs="+", choices=tuple(COMMANDS), help="these papers")
    parser.add_argument("--seed", type=integer(0), default=0, help="of every program (0)")
    program(parser, run, argv)


if __name__ == "__main__":
    main()
