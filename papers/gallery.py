"""Every picture of the papers in one go, with an index that says which command made which.

    python -m papers.gallery [--folder gallery] [--only ddim dps]

Each program runs as its line below says, with the networks that ship, and some with fewer images
than by default: all of it within 15 minutes on two cores.  index.html shows the commands, what they
printed, and the pictures; thumbnails/ has them small, as papers/README.md shows them, whose order
this is.
"""
import contextlib
import html
import importlib
import io
import time
from pathlib import Path

from PIL import Image

from papers.kit.program import program
from plumbing.cli import Parser, integer
from plumbing.files import replacing
from sample import SHIPPED

CORE = "--checkpoint assets/digits.pt"
COMMANDS = {                                         # of each program, but for --seed and --out
    "processes": CORE,
    "variational_bound": f"{CORE} --n 16",
    "improved_ddpm": "--n 4",
    "score_matching": CORE,
    "ncsn": CORE,
    "score_sde": f"{CORE} --n 16",
    "time_features": f"{CORE} --steps 1500",
    "dit": "",
    "ddim": f"{CORE} --n 8",
    "pndm": CORE,
    "dpm_solver": CORE,
    "parameterisations": CORE,
    "edm": CORE,
    "flow_matching": "",
    "consistency": "",
    "compare": f"{CORE} --n 16 --seeds 2",
    "classifier_guidance": f"{CORE} --n 3",
    "classifier_free_guidance": "--n 5",
    "clip": f"{CORE} --n 30",
    "text_to_image": "",
    "repaint": f"{CORE} --n 16",
    "sdedit": f"{CORE} --n 3",
    "dps": f"{CORE} --n 4",
    "super_resolution": "",
    "latent_diffusion": "",
    "stable_diffusion": "",
    "bits": f"{CORE} --steps 1500",
    "other_spaces": CORE,
    "shapes": "",
    "star_shaped": CORE,
    "score_distillation": "",
    "anomaly": f"{CORE} --n 32",
}
PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Gallery</title>
<style>body {{ font-family: sans-serif; max-width: 75em; margin: auto }} img {{ max-width: 100% }}
pre {{ background: #eee; padding: 0.7em; white-space: pre-wrap }}</style>
<h1>Gallery</h1>
<p>{}</p>
{}
"""
LINK = '<a href="#{0}"><img src="thumbnails/{0}.png" alt="{0}" width="180"></a>'
ENTRY = """<h2 id="{name}">{title}</h2>
<pre>{command}

{output}</pre>
<p>{seconds:.0f} seconds</p>
{picture}"""


def shrink(path):
    """Write a thumbnail of a picture, 360 pixels wide, into the folder beside it."""
    folder = path.parent / "thumbnails"
    folder.mkdir(exist_ok=True)
    with Image.open(path) as picture:
        size = 360, round(360 * picture.height / picture.width)
        small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        small.quantize(64).save(folder / path.name)


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
    if good:
        shrink(path)
    picture = f'<img src="{name}.png" alt="{name}">' if good else "<p>There is no picture.</p>"
    title = module.__doc__.splitlines()[0]
    return ENTRY.format(name=name, title=html.escape(title), seconds=time.monotonic() - since,
                        command=html.escape(f"python -m papers.{name} {command} {name}.png"),
                        output=html.escape(printed.getvalue()), picture=picture), good


def run(args):
    entries, links, bad = [], [], []
    for name in args.only or COMMANDS:
        print(f"{name}: papers/{name}.py", flush=True)
        entry, good = make(name, COMMANDS[name], args.seed, args.folder)
        entries.append(entry)
        links += [LINK.format(name)] if good else []
        bad += [] if good else [name]
        with replacing(args.folder / "index.html") as tmp:
            tmp.write_text(PAGE.format("\n".join(links), "\n".join(entries)), encoding="utf-8")
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
