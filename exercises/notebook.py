"""What a handout says of an exercise, and the notebook that says the same, as JSON."""
import json

from exercises.answer import functions, locate, span
from exercises.hunt import defects

TITLE = """# Exercises: denoising diffusion

Equations and algorithms are numbered as in Ho, Jain & Abbeel 2020,
[*Denoising Diffusion Probabilistic Models*](https://arxiv.org/abs/2006.11239).

Run the next cell first. A cell that begins with `%%answer` is a function that you write; running
it puts the function into its file, and `%check` checks that file. What a check says names the
mistake where it can. A hint: `%run -m exercises.hint {0}` in a cell of its own, and the next:
`%run -m exercises.hint {0} 2`. What is asked in writing is answered below "Your answer:", after a
double click.

Hand in {1}."""
START = """%load_ext exercises.answer
import torch  # to try things out: what you write here is not graded"""
PICTURE = """## Digits that your code draws

Algorithm 2 from this folder's `ddpm.py`, with a network that was trained to predict the noise in
digits: `sample.draw` walks your chain from t = T to 0, a thousand times through the network, in
about half a minute."""
DRAW = """%%draw samples.png
import torch

import data
import sample
from plumbing.pictures import save_grid

_, ddpm, model = sample.load("assets/digits.pt")
{}x_0 = sample.draw(ddpm, model, (16, 1, 16, 16), torch.Generator().manual_seed(0))
save_grid(data.to_uint8(x_0), "samples.png")"""
PREDICTS = ("", """eps_theta = model    # it predicts eps, and your ddpm.py asks for x_0


def model(x_t, t):
    return ddpm.predict_x_0(x_t, t, eps_theta(x_t, t))


""", """eps_theta = model    # it predicts eps, and your ddpm.py asks for v


def model(x_t, t):
    eps = eps_theta(x_t, t)
    a, b = (c[t].reshape(-1, 1, 1, 1).sqrt() for c in (ddpm.alpha_bar, ddpm.one_minus_alpha_bar))
    return a * eps - b * ddpm.predict_x_0(x_t, t, eps)


""")                                                 # of each variant


def statement(exercise):
    """Write what is to be done: the functions, the task, its equations."""
    names = exercise.files if exercise["edit"] else exercise.blanks
    parts = [f"{exercise['edit'] or 'Write'} " + ", ".join(f"`{name}`" for name in names) + ".",
             exercise["Task"], (exercise["Equation"] or "").replace("$$\n$$", "$$\n\n$$")]
    if exercise.number == 13:
        parts.append("\n".join(f"- `{name}`: {text}" for name, text in defects.NAMES.items()))
    return "\n\n".join(part for part in parts if part)


def to_answer(exercise, solutions=False):
    """Write the question that is answered in writing, and the place for it."""
    quoted = exercise["Question"].replace("\n", "\n> ")
    return f"> {quoted}\n\nYour answer:\n\n" + f"{exercise['Answer']}\n" * solutions


def hand_in(chosen, with_notebook=False):
    """Name the files that are handed in."""
    files = sorted({file for exercise in chosen for file in exercise.files})
    return (", ".join(f"`{file}`" for file in files) + " and, with your answers in writing, "
            "`ANSWERS.md`" + " or `exercises.ipynb`" * with_notebook)


def notebook(chosen, folder, solutions=False, predicts=0):
    """Return the notebook of a handout.

    Args:
        chosen: list of Exercise.
        folder: Path of the handout, whose functions stand in the cells as they are there.
        solutions: with the answers in writing.
        predicts: the variant whose network its ddpm.py is for.
    """
    cells = [markdown("title", TITLE.format(chosen[0].number, hand_in(chosen, True))),
             code("start", START)]
    for exercise in chosen:
        n = exercise.number
        cells.append(markdown(f"exercise-{n}", f"## {n}. {exercise.title} ({exercise.minutes} "
                              f"minutes)\n\n{statement(exercise)}"))
        cells += [code("answer-" + name.replace(".", "-"),
                       f"%%answer {name}\n{cell_of(folder, name)}") for name in exercise.blanks]
        cells += [code(f"check-{n}", f"%check {n}"),
                  markdown(f"question-{n}", to_answer(exercise, solutions), question=n)]
    cells += [code("check", "%check"), markdown("picture", PICTURE),
              code("draw", DRAW.format(PREDICTS[predicts]))]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return json.dumps({"cells": cells, "metadata": {
        "kernelspec": kernel, "language_info": {"name": "python"}}, "nbformat": 4,
        "nbformat_minor": 5}, indent=1, ensure_ascii=False) + "\n"


def cell_of(folder, name):
    """Return a function's source, from column 0, or that of a whole file."""
    file, function = locate(name)
    source = (folder / f"{file}.py").read_text(encoding="utf-8")
    if not function:
        return source.rstrip("\n")
    node = functions(source)[function]
    lines = source.splitlines()[slice(*span(node))]
    return "\n".join(line[node.col_offset:] for line in lines)


def markdown(name, text, **metadata):
    return {"cell_type": "markdown", "id": name, "metadata": metadata,
            "source": text.splitlines(keepends=True)}


def code(name, text):
    return {"cell_type": "code", "id": name, "metadata": {}, "execution_count": None, "outputs": [],
            "source": text.splitlines(keepends=True)}
