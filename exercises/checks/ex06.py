"""6: Algorithm 1, the training objective."""
import itertools

import torch
import torch.nn.functional as F

from .kit import (BAR, EQ_4, SAYS, Process, demand, expect, formula, normal, on_meta, plain,
                  same, tensor, theirs)


@theirs
def draw_t(student, sizes, device="cpu"):
    process = Process.of(student.ddpm.DDPM, "draw_t").to(device)
    return [process.draw_t(B) for B in sizes]


@theirs
def losses(student, x_0, t=None, eps=None, options=(), device="cpu", calls=1):
    """Return losses of a model that predicts w = 0.5, what it is asked, and the gradient by w."""
    given, asked = [x if x is None else x.to(device) for x in (x_0, t, eps)], []
    w = torch.full((), 0.5, device=device, requires_grad=True)

    def model(x_t, t):
        asked.append(plain((x_t, t)))
        return w + 0 * tensor(x_t, "x_t in model(x_t, t)", x_0.shape, x_0.dtype)

    process = Process.of(student.ddpm.DDPM, "loss").to(device)
    got = [process.loss(model, *given, **dict(options)) for _ in range(calls)]
    if isinstance(got[0], torch.Tensor) and got[0].requires_grad:
        got[0].sum().backward()
    return got, asked, w.grad


def ask(student, *args, calls=1, **more):
    got, asked, by_w = losses(student, *args, calls=calls, **more)
    demand(len(asked) == calls, f"loss: the model was called {len(asked)} times, not {calls}")
    return got, asked, by_w


def costs(variant, x_0, t, eps, guess=0.5, reduce=torch.mean):
    """Return what a model pays that predicts guess, and [(slip, what it then pays)]."""
    bar, says = BAR[t].float().reshape(-1, 1, 1, 1), SAYS[variant]
    v, x_t = (bar ** 0.5 * one + (1 - bar) ** 0.5 * two for one, two in ((eps, -x_0), (x_0, eps)))
    targets = {"eps": eps, "x_0": x_0, "v": v, "x_t": x_t}
    error = guess - targets[says]
    slips = {f"{name} is the target instead of {says}": (guess - target) ** 2
             for name, target in targets.items()} | {
        "the sign of v is wrong": (guess + v) ** 2, "it is half as much": error ** 2 / 2,
        "the sign of the target is wrong": (guess + targets[says]) ** 2,
        "the absolute error is taken: L1": error.abs(), "the errors are not squared": error,
        "Huber's loss is taken: smooth L1": F.huber_loss(error, 0 * error, "none")}
    return reduce(error ** 2), [(f"when {words}", value) for words, value in (
        *((words, reduce(cost)) for words, cost in slips.items()),
        ("the squared errors are summed and not averaged", (error ** 2).sum()),
        ("the sum over pixels is averaged over the batch", (error ** 2).sum() / len(error)),
        ("the root of the mean is taken", (error ** 2).mean() ** 0.5))]


def case(student):
    x_0, eps = normal(student, 2, 3, 3, 2, 2)
    return x_0, torch.tensor([2, 4, 1]), eps


def uniform(t, where):
    """Demand that t is what Algorithm 1, line 3 says, for a batch of 4,000 and T = 4."""
    tensor(t, where, (4000,), torch.int64)
    demand(t.unique().numel() > 1, f"{where}: all images have the same time. This is what you get "
           "when one t is drawn for the whole batch.")
    low, high = t.min().item(), t.max().item()
    demand(low >= 1, f"{where}: t = {low} was drawn. This is what you get from "
           "randint(0, ...), or when the model is told t - 1: at t = 0 there is no noise.")
    demand(high >= 4, f"{where}: with T = 4, no t above {high} was drawn in 4,000. This is what "
           "you get from randint(1, T): its upper end is exclusive.")
    demand(high <= 4, f"{where}: t = {high} was drawn, and T is 4")
    counts = t.bincount(minlength=5)[1:]
    demand(counts.min() > 850, f"{where}: on 1..4 fall {counts.tolist()} times, not uniform")


def check_draw_t_is_uniform_on_1_to_T_and_each_image_has_its_own(student):
    """Algorithm 1, line 3, by itself: `train.L_simple` draws with it as well."""
    one, two, *few = draw_t(student, [4000] * 2 + [4] * 1000)
    uniform(one, "draw_t")
    uniform(two, "draw_t")
    demand(not torch.equal(one, two), "draw_t: two calls drew the same times")
    batches = torch.stack([tensor(t, "draw_t(4)", (4,), torch.int64) for t in few]) - 1
    for i, j in itertools.combinations(range(4), 2):     # each of 16 pairs 62 times, give or take
        pairs = (4 * batches[:, i] + batches[:, j]).bincount(minlength=16)
        demand(pairs.min() > 20, f"draw_t: in batches of 4, the times of images {i + 1} and {j + 1}"
               " depend on each other. This is what you get when they are shuffled, or when the "
               "second half of a batch is made of the first.")
    on_meta(lambda: draw_t(student, [3], "meta")[0], "draw_t", "Pass device=self.beta.device.")


def given(student):
    """Demand that the model is asked for the t and x_t that are given; return what loss returns."""
    x_0, t, eps = case(student)
    (got,), ((x_t, asked),), _ = ask(student, x_0, t, eps)
    expect(asked, t, "the times the model is asked for, where t is given", [
        ("when the model is told t - 1", t - 1)], dtype=torch.int64)
    expect(x_t, formula(EQ_4, t, x_0=x_0, eps=eps), "x_t as the model sees it, Eq. 4", [
        ("when the model is given x_0", x_0), ("when the model is given eps", eps)])
    return got


def check_the_loss_is_the_mean_squared_error(student):
    """Eq. 14 with t and eps given, of a model that predicts 0.5."""
    got, (right, slips) = given(student), costs(student.variant, *case(student))
    expect(got, right, f"loss of a model that predicts 0.5: the mean squared error in "
           f"{SAYS[student.variant]}", slips, dtype=torch.float32)


def check_times_are_drawn_from_1_to_T(student):
    """Whoever draws t in `loss`, itself or a draw_t of ours: it is told to the model as drawn."""
    given(student)
    uniform(ask(student, torch.zeros(4000, 1, 1, 1))[1][0][1], "loss")
    on_meta(lambda: ask(student, torch.zeros(2, 3, 4, 4), device="meta")[1][0][1],
            "t or eps in loss", "Pass device=x_0.device.")


def check_eps_is_standard_normal_and_new_for_each_pixel(student):
    """Algorithm 1, line 4; with x_0 = 0, x_t is sqrt(1 - alpha_bar_t) eps."""
    given(student)
    x_0, t = torch.zeros(5000, 3, 2, 2), torch.full((5000,), 4)
    (got, _), asked, _ = ask(student, x_0, t, calls=2)
    eps, other = (x_t / (1 - BAR[4]) ** 0.5 for x_t, _ in asked)
    demand(not same(eps, other), "loss: two calls drew the same noise")
    for axis, words in enumerate(("images", "channels", "rows of pixels", "columns of pixels")):
        demand(eps.diff(dim=axis).std() > 0.1, f"loss: the {words} share their noise")
    demand(eps.min() < 0, "loss: no eps is below 0, as of rand instead of randn")
    expect(eps.mean(), 0.0, "the mean of 60,000 values of eps", atol=0.03)       # seven errors
    expect(eps.std(), 1.0, "the standard deviation of 60,000 values of eps", rtol=0.02)
    right, slips = costs(student.variant, x_0, t, eps)
    expect(got, right, "loss, where x_t was made of this eps", slips)


def check_reduction_none_keeps_the_pixels_apart(student):
    """The log of train.py needs the loss of each image."""
    (got,), *_ = ask(student, *case(student), [("reduction", "none")])
    right, slips = costs(student.variant, *case(student), reduce=torch.clone)
    expect(got, right, 'loss with reduction="none": the squared error of every pixel', slips,
           dtype=torch.float32)


def check_gradients_reach_the_model(student):
    """Of a model that predicts w, at w = 0.5."""
    ((got,), _, by_w), w = ask(student, *case(student)), torch.full((), 0.5, requires_grad=True)
    demand(got is None or by_w is not None, "loss: no gradient can flow back to the model. Was "
           "something detached, or .item() taken?")
    right, slips = costs(student.variant, *case(student), w)
    (_, right), *slips = ((words, torch.autograd.grad(cost, w, retain_graph=True)[0])
                          for words, cost in (("", right), *slips))
    expect(by_w, right, f"the gradient by w of the mean of ({SAYS[student.variant]} - w)^2", slips)
