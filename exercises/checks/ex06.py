"""6: Algorithm 1, the training objective."""
import itertools

import torch

from .kit import SAYS, Process, demand, expect, same

BETA = [0.1, 0.3, 0.2, 0.5]


class Spy:
    """A model that keeps what it is asked and predicts a constant."""

    def __init__(self, value=0.0):
        self.value, self.calls = value, []

    def __call__(self, x_t, t):
        self.calls.append((x_t, t))
        return torch.full_like(x_t, self.value)


def lend(student):
    """Give a process whose loss is the student's, and draw_t ours."""
    return Process.of(BETA, student.ddpm.DDPM, "loss")


def targets(x_0, eps, bar):
    """Return eps, x_0 and v: what the network of each variant is to predict."""
    return eps, x_0, bar ** 0.5 * eps - (1 - bar) ** 0.5 * x_0


def uniform(t, where):
    """Demand that t is what Algorithm 1, line 3 says, for a batch of 4,000 and T = 4."""
    demand(isinstance(t, torch.Tensor) and t.shape == (4000,),
           f"{where}: expected one time for each image, a (B,) tensor")
    demand(not t.is_floating_point(), f"{where}: times are integers, not {t.dtype}")
    demand(t.unique().numel() > 1, f"{where}: all images have the same time. This is what you get "
           "when one t is drawn for the whole batch.")
    low, high = t.min().item(), t.max().item()
    demand(low >= 1, f"{where}: t = {low} was drawn. This is what you get from "
           "randint(0, ...), or when the model is told t - 1: at t = 0 there is no noise.")
    demand(high >= 4, f"{where}: with T = 4, no t above {high} was drawn in 4,000. This is what "
           "you get from randint(1, T): its upper end is exclusive.")
    demand(high <= 4, f"{where}: t = {high} was drawn, and T is 4")
    demand(low == 1, f"{where}: no t below {low} was drawn in 4,000")
    counts = t.bincount(minlength=5)[1:]
    demand(counts.min() > 850,
           f"{where}: 4,000 times fall on 1..4 as {counts.tolist()}, not uniform")


def check_draw_t_is_uniform_on_1_to_T_and_each_image_has_its_own(student):
    """Algorithm 1, line 3, by itself: `train.L_simple` draws with it as well."""
    process = Process.of(BETA, student.ddpm.DDPM, "draw_t")
    torch.manual_seed(student.seed)
    t = process.draw_t(4000)
    demand(t is not None, "draw_t: nothing was returned. Is there a `return`?")
    uniform(t, "draw_t")
    demand(t.dtype == torch.int64, f"draw_t: times are int64, not {t.dtype}")
    demand(not torch.equal(t, process.draw_t(4000)), "draw_t: two calls drew the same times")
    batches = torch.stack([process.draw_t(4) for _ in range(1000)]) - 1
    for i, j in itertools.combinations(range(4), 2):     # each of 16 pairs 62 times, give or take
        pairs = (4 * batches[:, i] + batches[:, j]).bincount(minlength=16)
        demand(pairs.min() > 20, f"draw_t: in batches of 4, the times of images {i + 1} and {j + 1}"
               " depend on each other. This is what you get when they are shuffled, or when the "
               "second half of a batch is made of the first.")
    for name, value in vars(process).items():        # a device that every machine has
        setattr(process, name, value.to("meta") if isinstance(value, torch.Tensor) else value)
    demand(process.draw_t(3).device.type == "meta", "draw_t: on a GPU, where self.beta is, t must "
           "be there as well: pass device=self.beta.device")


def check_the_loss_is_the_mean_squared_error(student):
    """Eq. 14 with t and eps given."""
    x_0 = torch.tensor([0.4, -0.2]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    eps = torch.tensor([2.0, -1.5]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    bar = torch.tensor([0.63, 0.252]).reshape(2, 1, 1, 1)
    t, model, v = torch.tensor([2, 4]), Spy(0.5), student.variant
    got = lend(student).loss(model, x_0, t, eps)
    demand(len(model.calls) == 1, f"loss: the model was called {len(model.calls)} times, not once")
    errors = [0.5 - target for target in targets(x_0, eps, bar)]
    mse = (errors[v] ** 2).mean()
    expect(got, mse, f"loss of a model that predicts 0.5, where x_0 is 0.4 and -0.2 and eps 2 and "
           f"-1.5: the mean squared error in {SAYS[v]}", [
        ("when the squared errors are summed and not averaged", mse * 8),
        ("when the sum over pixels is averaged over the batch", mse * 4),
        ("when the absolute error is taken: L1", errors[v].abs().mean()),
        ("when the root of the mean is taken", mse ** 0.5),
        *((f"when {SAYS[other]} is the target instead of {SAYS[v]}", (errors[other] ** 2).mean())
          for other in range(3)),
        ("when the sign of v is wrong", ((0.5 + targets(x_0, eps, bar)[2]) ** 2).mean())])
    x_t, asked = model.calls[0]
    demand(isinstance(asked, torch.Tensor) and asked.shape == (2,),
           "loss: the model must get t as a (B,) tensor, one time for each image")
    expect(asked, t, "the times the model is asked for")
    expect(x_t, bar ** 0.5 * x_0 + (1 - bar) ** 0.5 * eps, "x_t as the model sees it, Eq. 4", [
        ("when the model is given x_0", x_0), ("when the model is given eps", eps)])


def check_times_are_drawn_from_1_to_T(student):
    """Whoever draws t in `loss`, itself or a draw_t of ours: it is told to the model as drawn."""
    model = Spy()
    torch.manual_seed(student.seed)
    lend(student).loss(model, torch.zeros(4000, 1, 1, 1))
    uniform(model.calls[0][1], "loss")


def check_eps_is_standard_normal_and_new_for_each_pixel(student):
    """Algorithm 1, line 4; with x_0 = 0, x_t is sqrt(1 - alpha_bar_t) eps."""
    model, process = Spy(), lend(student)
    torch.manual_seed(student.seed)
    t = torch.full((5000,), 4)
    first = process.loss(model, torch.zeros(5000, 1, 2, 2), t)
    process.loss(model, torch.zeros(5000, 1, 2, 2), t)
    eps = model.calls[0][0] / 0.748 ** 0.5
    demand(not same(model.calls[0][0], model.calls[1][0]), "loss: two calls drew the same noise")
    demand((eps[1:] - eps[:-1]).std() > 0.1, "loss: the images of a batch share their noise")
    demand((eps[:, 0, 0, 0] - eps[:, 0, 0, 1]).std() > 0.1,
           "loss: the pixels of an image share their noise")
    expect(eps.mean(), 0.0, "the mean of eps", [
        ("when eps is uniform in [0, 1]: rand instead of randn", 0.5)], atol=0.05)
    expect(eps.std(), 1.0, "the standard deviation of eps", [
        ("when eps is uniform in [0, 1]: rand instead of randn", 12 ** -0.5)], rtol=0.03)
    expect(first, (1.0, 0.0, 0.252)[student.variant], f"the loss of predicting 0 where x_0 is 0: "
           f"the mean of the square of {SAYS[student.variant]}", rtol=0.05)


def check_reduction_none_keeps_the_pixels_apart(student):
    """The log of train.py needs the loss of each image."""
    x_0, eps = torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(student.seed))
    t = torch.tensor([1, 2, 4])
    bar = torch.tensor([0.9, 0.63, 0.252]).reshape(3, 1, 1, 1)
    error = 0.5 - targets(x_0, eps, bar)[student.variant]
    expect(lend(student).loss(Spy(0.5), x_0, t, eps, reduction="none"), error ** 2,
           'loss with reduction="none": the squared error of every pixel', [
        ("when the errors are not squared", error),
        ("when absolute errors are taken", error.abs())])


def check_gradients_reach_the_model(student):
    w = torch.zeros((), requires_grad=True)
    ones = torch.ones(2, 1, 2, 2)
    loss = lend(student).loss(lambda x_t, t: w + 0 * x_t, ones, torch.tensor([1, 2]), ones)
    demand(isinstance(loss, torch.Tensor) and loss.requires_grad, "loss: no gradient can flow back "
           "to the model. Was something detached, or .item() taken?")
    loss.backward()
    bar = torch.tensor([0.9, 0.63]).reshape(2, 1, 1, 1)
    target = targets(ones, ones, bar)[student.variant]
    expect(w.grad, -2 * target.mean(), f"the gradient by w at w = 0 of a model that predicts w, "
           f"where x_0 and eps are 1: of the mean of ({SAYS[student.variant]} - w)^2")
