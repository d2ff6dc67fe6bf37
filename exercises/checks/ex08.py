"""8: the averaged weights, and going on with a run."""
import copy
import tempfile
from pathlib import Path

import torch
from torch import nn

from .kit import Wrong, demand, expect, same


def network(w):
    net = nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.fill_(w)
        net.bias.fill_(10 * w)
    return net


def check_the_average_moves_towards_the_model(student):
    """ema <- decay ema + (1 - decay) model."""
    ema, model = network(1.0).requires_grad_(False), network(2.0)
    weight = ema.weight
    student.train.update_ema(ema, model, 0.9)
    demand(ema.weight is weight, "update_ema: the weights of ema must be changed in place")
    expect(model.weight.detach(), torch.full((1, 2), 2.0), "the weights of model, after update_ema",
           [("when model is changed and ema is not", torch.full((1, 2), 1.9)),
            ("when model is changed and ema is not", torch.full((1, 2), 1.1))])
    expect(ema.weight, torch.full((1, 2), 1.1), "update_ema with decay 0.9, from 1 towards 2", [
        ("when decay and 1 - decay are exchanged", torch.full((1, 2), 1.9)),
        ("when the weights are copied", torch.full((1, 2), 2.0)),
        ("when nothing happens", torch.full((1, 2), 1.0)),
        ("when 1 - decay is forgotten", torch.full((1, 2), 0.9 + 2)),
        ("when the two are just averaged", torch.full((1, 2), 1.5))])
    expect(ema.bias, torch.full((1,), 11.0), "the bias after update_ema", [
        ("when only the first of the parameters is averaged", torch.full((1,), 10.0))])
    demand(not ema.weight.requires_grad, "update_ema: the average must not need gradients")


def check_a_thousand_updates_are_a_geometric_sum(student):
    ema, model = network(0.0).requires_grad_(False), network(1.0)
    for _ in range(1000):
        student.train.update_ema(ema, model, 0.999)
    expect(ema.weight, torch.full((1, 2), 1 - 0.999 ** 1000), "1,000 updates towards 1",
           rtol=1e-3)


def begin(student, out):
    """Make two steps of a run, and save it."""
    config = student.train.Config(out=str(out), device="cpu", precision="float32", steps=10)
    torch.manual_seed(student.seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    run = student.train.Run(model, copy.deepcopy(model).requires_grad_(False),
                            torch.optim.Adam(model.parameters(), lr=0.1), torch.zeros(2, 4))
    for _ in range(2):
        step(student, run)
    run.rows = [[1, *[0.5] * 6]]
    run.tally[1, 2] = 3.0
    student.train.save(out, config, run)
    return config, run


def step(student, run):
    run.optimizer.zero_grad()
    run.model(torch.randn(5, 3)).square().mean().backward()
    run.optimizer.step()
    with torch.no_grad():
        for average, weight in zip(run.ema.parameters(), run.model.parameters(), strict=True):
            average.lerp_(weight, 0.1)
    run.step += 1


def fresh(student):
    torch.manual_seed(student.seed + 1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    return student.train.Run(model, copy.deepcopy(model).requires_grad_(False),
                             torch.optim.Adam(model.parameters(), lr=0.1), torch.zeros(2, 4))


def check_restore_puts_everything_back(student):
    """The checkpoint is written by the project's own `save`.

    Numbers are only moved, into a file and back: they come back bit for bit.
    """
    with tempfile.TemporaryDirectory() as folder:
        config, run = begin(student, Path(folder))
        expected = torch.get_rng_state()
        again = fresh(student)
        student.train.restore(Path(folder), config, again)
        rng = torch.get_rng_state()
    demand(again.step == 2, f"restore: expected step 2, got {again.step}")
    for name, told in (("model", "the weights"), ("ema", "the averaged weights")):
        for one, two in zip(getattr(run, name).parameters(), getattr(again, name).parameters(),
                            strict=True):
            demand(torch.equal(one, two), f"restore: {told} ({name}) are not those of the file")
    demand(len(again.optimizer.state) == 4, "restore: the optimizer has no moments. Adam would "
           "start anew: its state belongs to the checkpoint too.")
    moments = [[state["exp_avg"] for state in each.optimizer.state.values()]
               for each in (run, again)]
    demand(all(map(torch.equal, *moments)), "restore: the optimizer's moments are others")
    demand(torch.equal(rng, expected), "restore: the state of the random numbers is not that of "
           "the checkpoint, so the batches and the noise will be others")
    demand(again.rows == [[1, *[0.5] * 6]], "restore: the rows of the log are others: "
           f"{again.rows}")
    demand(torch.equal(run.tally, again.tally), "restore: the tally, the losses since the last "
           "line of the log, was not put back")


def check_going_on_equals_never_having_stopped(student):
    """Two steps, restore, two steps: the same as four steps."""
    with tempfile.TemporaryDirectory() as folder:
        config, run = begin(student, Path(folder))
        state = torch.get_rng_state()
        for _ in range(2):
            step(student, run)
        torch.set_rng_state(state)
        again = fresh(student)
        student.train.restore(Path(folder), config, again)
        for _ in range(2):
            step(student, again)
    for one, two in zip(run.model.parameters(), again.model.parameters(), strict=True):
        demand(same(one, two), "four steps, and two, restore, two, gave other weights")


def check_nothing_is_restored_past_the_end(student):
    """A run at step 2 cannot go on to step 1; it may stand at its end."""
    with tempfile.TemporaryDirectory() as folder:
        config, _ = begin(student, Path(folder))
        config.steps = 2
        student.train.restore(Path(folder), config, fresh(student))
        config.steps = 1
        try:
            student.train.restore(Path(folder), config, fresh(student))
        except ValueError:
            return
    raise Wrong("restore: config.steps = 1 lies before the checkpoint, at step 2, and was "
                "accepted. Raise a ValueError (`refuse` does).")
