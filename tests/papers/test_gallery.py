"""The gallery: every paper that draws a picture is in it, and its commands are ones that work."""
import importlib
import re
from pathlib import Path

import pytest
from PIL import Image
from stand_ins import refused

from papers import gallery
from sample import SHIPPED

PAPERS = Path(gallery.__file__).parent


def test_every_paper_that_draws_one_picture_is_in_it():
    drawing = {path.stem for path in PAPERS.glob("*.py")
               if re.search(r'flags\(__doc__, "\w+\.png"', path.read_text(encoding="utf-8"))}
    assert set(gallery.COMMANDS) == drawing and len(drawing) > 10


def test_readme_tells_them_in_this_order_and_shows_each():
    rows = re.findall(r"^\| (?:!\[.*?\]\((.*?)\))? *\| \[`(\w+)\.py`\]\(\2\.py\)",
                      (PAPERS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for _, name in rows if name in gallery.COMMANDS] == list(gallery.COMMANDS)
    for picture, name in rows:
        assert name not in gallery.COMMANDS or picture == f"../assets/thumbnails/{name}.png"
    assert {name for _, name in rows} == {path.stem for path in PAPERS.glob("*.py")} - {
        "__init__", "gallery"}


@pytest.mark.parametrize("name", gallery.COMMANDS)
def test_the_commands_are_ones_that_the_programs_take(name, monkeypatch, tmp_path):
    module, seen = importlib.import_module(f"papers.{name}"), []

    def run(args):
        seen.append(args)
        Image.new("L", (720, 300)).save(args.out)
    monkeypatch.setattr(module, "run", run)
    entry, good = gallery.make(name, gallery.COMMANDS[name], 5, tmp_path)
    args, = seen
    assert good and (args.out, args.seed) == (tmp_path / f"{name}.png", 5)
    assert args.checkpoint is None or args.checkpoint == SHIPPED
    assert f"python -m papers.{name} {gallery.COMMANDS[name]}".strip() in entry
    assert Image.open(tmp_path / "thumbnails" / f"{name}.png").size == (360, 150)
    assert f"--seed 5 --out {name}.png" in entry and f'src="{name}.png"' in entry
    assert module.__doc__.splitlines()[0].split("'")[0] in entry


def interrupt(args):
    raise KeyboardInterrupt


def test_it_makes_pictures_and_an_index_and_says_what_went_wrong(trained, tmp_path, monkeypatch,
                                                                 capsys):
    monkeypatch.setattr(gallery, "COMMANDS", {
        "pndm": "--checkpoint a<b.pt", "ddim": f"--checkpoint {trained[0]} --n 2"})
    folder = tmp_path / "gallery"
    refused(capsys, ["--folder", folder, "--only", "ddim", "tdim"], "tdim", main=gallery.main)
    with pytest.raises(SystemExit) as caught:
        gallery.main(["--folder", str(folder), "--seed", "3"])
    assert caught.value.code == 1
    said = capsys.readouterr()
    assert "no picture of pndm: above" in said.err and "a<b.pt" in said.err
    monkeypatch.setattr(importlib.import_module("papers.pndm"), "run", interrupt)
    with pytest.raises(SystemExit) as caught:
        gallery.make("pndm", "", 0, folder)
    assert caught.value.code == 130                  # Ctrl-C ends all, and not one program
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'<h2 id="(\w+)">', page) == ["pndm", "ddim"]
    assert "a&lt;b.pt" in page and "exit with" in page and "There is no picture." in page
    assert f"2 samples of {trained[0]}" in page and "wrote" in page      # what ddim printed
    assert re.findall(r'src="(.*?)"', page) == ["thumbnails/ddim.png", "ddim.png"]
    assert Image.open(folder / "ddim.png").size[0] > 500
    (folder / "pndm.png").write_bytes(b"of an earlier run")
    monkeypatch.setitem(gallery.COMMANDS, "pndm", f"--checkpoint {trained[0]}")
    monkeypatch.setattr(importlib.import_module("papers.pndm"), "main", lambda argv: None)
    gallery.main(["--folder", str(folder), "--only", "ddim"])
    assert f"wrote {folder / 'index.html'}" in capsys.readouterr().out
    _, good = gallery.make("pndm", "", 0, folder)
    assert not good                                  # an old picture is none of this command
