"""8: the averaged weights, and going on with a run."""
import copy
import csv
import tempfile
from pathlib import Path

import torch
from torch import nn

from .kit import Formula, demand, expect, same, theirs

LADDER = True                                        # see run.run
LOGGED = [[step, *[0.5] * 6] for step in (1, 2, 3)]  # the rows of log.csv when a run was killed


@theirs
def average(student, ema_is, model_is, decay, steps=1):
    """Return what two networks hold after update_ema, all of whose numbers were these."""
    ema, model = nets = [nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1)) for _ in range(2)]
    for net, number in zip(nets, (ema_is, model_is), strict=True):
        for tensor in (*net.parameters(), *net.buffers()):
            tensor.data.fill_(number)
    weights, views = [*ema.requires_grad_(False).parameters()], [w[:] for w in ema.parameters()]
    for _ in range(steps):
        student.train.update_ema(ema, model, decay)
    got = {"weights": [*ema.parameters()], "buffers": copy.deepcopy([*ema.buffers()]),
           "model": copy.deepcopy([*model.parameters(), *model.buffers()]),
           "graph": any(weight.requires_grad for weight in ema.parameters()),
           "in place": all(one is two and torch.equal(one, view) for one, two, view in zip(
               ema.parameters(), weights, views, strict=True))}
    model[1].running_mean += 1
    return {**got, "shared": not torch.equal(ema[1].running_mean, got["buffers"][0])}


def check_the_average_moves_towards_the_model(student):
    """ema <- decay ema + (1 - decay) model."""
    got = average(student, 3.0, 5.0, 0.9)
    for each in got["model"]:
        expect(each, torch.full_like(each, 5), "a number of model, after update_ema", [
            ("when model is changed and ema is not", torch.full_like(each, number))
            for number in (4.8, 3.2)])
    demand(got["in place"], "update_ema: the weights of ema must be changed in place, as by "
           "`lerp_`, `mul_` and `add_` or `copy_`: others hold these tensors")
    for n, each in enumerate(got["weights"]):
        ema, model = (torch.full_like(each, number).double() for number in (3, 5))
        expect(each, Formula("decay * ema + (1 - decay) * model", decay=0.9, ema=ema, model=model),
               "update_ema with decay 0.9, from 3 towards 5", [
            ("when decay and 1 - decay are exchanged", 1.6 * ema),
            ("when the weights are copied", model),
            ("when only the first weight is averaged" if n else "when nothing happens", ema),
            ("when the two are just averaged", ema + 1)])
    demand(not got["graph"], "update_ema: the average must not need gradients")


def check_a_thousand_updates_are_a_geometric_sum(student):
    for each in average(student, 0.0, 1.0, 0.999, steps=1000)["weights"]:
        expect(each, torch.full_like(each, 1 - 0.999 ** 1000), "1,000 updates towards 1", rtol=1e-3)


def check_buffers_are_copied(student):
    """They are no weights: an average of counts and running means is of no use."""
    got = average(student, 0.0, 3.0, 0.9)
    for each, name in zip(got["buffers"], ("floats", "floats", "integers"), strict=True):
        expect(each, torch.full_like(each, 3), f"a buffer of {name} of ema, after update_ema", [
            ("when buffers are averaged as weights are", torch.full_like(each, 0.3)),
            ("when buffers are left as they are", torch.zeros_like(each))])
    demand(not got["shared"], "update_ema: ema and model must not share their buffers")


def fresh(student, out, seed, resume=False):
    """Make a run whose network and optimizer know of no other."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    config = {"out": str(out), "data": "digits", "steps": 10, "batch_size": 5, "log_every": 2,
              "seed": student.seed, "precision": "float32"}
    return student.run.Run(config, model, copy.deepcopy(model).requires_grad_(False),
                           torch.optim.Adam(model.parameters(), lr=0.1), torch.device("cpu"), (),
                           resume)


def steps(run, n=2):
    for _ in range(n):
        run.optimizer.zero_grad()
        run.model(torch.randn(5, 3)).square().mean().backward()
        run.optimizer.step()
        with torch.no_grad():
            for average, weight in zip(run.ema.parameters(), run.model.parameters(), strict=True):
                average.lerp_(weight, 0.1)
        run.step += 1
    return run


def said(run):
    """Return all that a run has to put back."""
    state = [run.optimizer.state[weight] for weight in run.model.parameters()]
    return copy.deepcopy({
        "step": run.step, "the tally, the losses since the last line of the log": run.tally,
        "the weights (model)": [*run.model.parameters()],
        "the averaged weights (ema)": [*run.ema.parameters()],
        **{f"the optimizer's {name}": [each.get(name) for each in state]
           for name in ("exp_avg", "exp_avg_sq", "step")},
        "the state of the random numbers": torch.get_rng_state()})


@theirs
def restored(student, more):
    """Save a run of two steps, and let another with other weights go on where it was.

    The checkpoint is written by the project's own `save`; the log has a line of a third step.
    more: steps that both make after that.
    """
    with tempfile.TemporaryDirectory() as out:
        run = steps(fresh(student, out, student.seed), 2)
        run.tally[1, 2] = 3.0
        run.save()
        with open(Path(out, "log.csv"), "w", newline="") as f:
            csv.writer(f).writerows([student.run.COLUMNS, *LOGGED])
        expected = said(steps(run, more))
        again = fresh(student, out, student.seed + 1, resume=True)
        held = again.model, again.ema, again.optimizer, *again.model.parameters()
        again.restore()
        own = all(one is two for one, two in zip(held, (
            again.model, again.ema, again.optimizer, *again.model.parameters()), strict=True))
        return [expected, said(steps(again, more)), own,
                [row[0] for row in student.run.read_log(Path(out, "log.csv"))]]


def equal(one, two):
    """Are these the same numbers?  They were only moved, into a file and back."""
    if isinstance(two, list):
        return isinstance(one, list) and len(one) == len(two) and all(map(equal, one, two))
    return isinstance(one, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)


def check_restore_puts_everything_back(student):
    """Bit for bit."""
    expected, got, own, _ = restored(student, 0)
    demand(type(got["step"]) is int and got["step"] == 2,
           f"restore: expected step 2, got {got['step']}")
    demand(own, "restore: model, ema, optimizer and the weights must stay the objects that they "
           "are, for `train` goes on with these: load into them, do not replace them")
    demand(got["the optimizer's exp_avg"] != [None] * 4, "restore: the optimizer has no moments. "
           "Adam would start anew: its state belongs to the checkpoint too.")
    for name in [*expected][1:]:
        demand(equal(got[name], expected[name]), f"restore: not as in the checkpoint: {name}")


def check_the_log_is_cut_where_the_checkpoint_is(student):
    """Of three lines the third was lived after the checkpoint, and the second's interval goes on.

    That is how it is where a run is saved between two lines of its log, and goes on with a tally.
    """
    *_, kept = restored(student, 0)
    demand(kept, "restore: no line of log.csv is left. This is what you get when it is cut before "
           "self.step is back: `keep_log` looks at it.")
    demand(3 not in kept, "restore: log.csv has a line of step 3, and the checkpoint is of step 2: "
           "going on would write it a second time. `keep_log` cuts it.")
    demand(kept == [1], f"restore: log.csv has lines of the steps {kept}, and should have that of "
           "step 1 only: the tally goes on with the second interval. This is what you get when it "
           "is cut before self.tally is back: `keep_log` looks at it.")


def check_going_on_equals_never_having_stopped(student):
    """Two steps, restore, two steps: the same as four steps."""
    expected, got, *_ = restored(student, 2)
    for name in ("the weights (model)", "the averaged weights (ema)"):
        for one, two in zip(got[name], expected[name], strict=True):
            demand(same(one, two), f"four steps, and two, restore, two, gave others: {name}")
