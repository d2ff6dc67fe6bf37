"""6: Algorithm 1, the training objective."""
import torch

from .kit import Process, demand, expect

BETA = [0.1, 0.3, 0.2, 0.5]


class Spy:
    """A model that keeps what it is asked and predicts a constant."""

    def __init__(self, value=0.0):
        self.value, self.calls = value, []

    def __call__(self, x_t, t):
        self.calls.append((x_t, t))
        return torch.full_like(x_t, self.value)


def lend(student):
    return Process.of(BETA, student.ddpm.DDPM, "loss")


def check_the_loss_is_the_mean_squared_error_of_eps(student):
    """Eq. 14 with t and eps given."""
    x_0, eps = torch.full((2, 1, 2, 2), 0.5), torch.full((2, 1, 2, 2), 2.0)
    eps[1] = -1.0
    t, model = torch.tensor([2, 4]), Spy(0.5)
    got = lend(student).loss(model, x_0, t, eps)                 # 1.5^2 and 1.5^2 again
    demand(len(model.calls) == 1, f"loss: the model was called {len(model.calls)} times, not once")
    expect(got, 2.25, "loss of a model that predicts 0.5 where eps is 2 and -1, Eq. 14", [
        ("when the squared errors are summed and not averaged", 2.25 * 8),
        ("when the sum over pixels is averaged over the batch", 2.25 * 4),
        ("when the absolute error is taken: L1", 1.5),
        ("when the root of the mean is taken", 1.5),
        ("when x_0 is the target instead of eps", 0.0)])
    x_t, asked = model.calls[0]
    demand(isinstance(asked, torch.Tensor) and asked.shape == (2,),
           "loss: the model must get t as a (B,) tensor, one time for each image")
    expect(asked, t, "the times the model is asked for")
    bar = torch.tensor([0.63, 0.252]).reshape(2, 1, 1, 1)
    expect(x_t, bar ** 0.5 * x_0 + (1 - bar) ** 0.5 * eps, "x_t as the model sees it, Eq. 4", [
        ("when the model is given x_0", x_0), ("when the model is given eps", eps)])


def check_times_are_drawn_from_1_to_T(student):
    """Algorithm 1, line 3: t ~ Uniform({1, ..., T}), for each image."""
    model = Spy()
    torch.manual_seed(student.seed)
    lend(student).loss(model, torch.zeros(4000, 1, 1, 1))
    t = model.calls[0][1]
    demand(isinstance(t, torch.Tensor) and t.shape == (4000,),
           "loss: expected one time for each image, a (B,) tensor")
    demand(not t.is_floating_point(), f"loss: times are integers, not {t.dtype}")
    demand(t.unique().numel() > 1, "loss: all images have the same time. This is what you get when "
           "one t is drawn for the whole batch.")
    low, high = t.min().item(), t.max().item()
    demand(low >= 1, f"loss: t = {low} was drawn. This is what you get from "
           "randint(0, ...): at t = 0 there is no noise to predict; Algorithm 1 starts at 1.")
    demand(high >= 4, f"loss: with T = 4, no t above {high} was drawn in 4,000. This is what you "
           "get from randint(1, T): its upper end is exclusive.")
    demand(high <= 4, f"loss: t = {high} was drawn, and T is 4")
    demand(low == 1, f"loss: no t below {low} was drawn in 4,000")
    counts = t.bincount(minlength=5)[1:]
    demand(counts.min() > 850, f"loss: 4,000 times fall on 1..4 as {counts.tolist()}, not uniform")


def check_eps_is_standard_normal_and_new_for_each_pixel(student):
    """Algorithm 1, line 4; with x_0 = 0, x_t is sqrt(1 - alpha_bar_t) eps."""
    model, process = Spy(), lend(student)
    torch.manual_seed(student.seed)
    t = torch.full((5000,), 4)
    first = process.loss(model, torch.zeros(5000, 1, 2, 2), t)
    second = process.loss(model, torch.zeros(5000, 1, 2, 2), t)
    eps = model.calls[0][0] / 0.748 ** 0.5
    expect(eps.mean(), 0.0, "the mean of eps", [
        ("when eps is uniform in [0, 1]: rand instead of randn", 0.5)], atol=0.05)
    expect(eps.std(), 1.0, "the standard deviation of eps", [
        ("when eps is uniform in [0, 1]: rand instead of randn", 12 ** -0.5)], rtol=0.03)
    expect(first, 1.0, "the loss of predicting 0: the mean of eps^2", rtol=0.05)
    demand(first != second, "loss: two calls drew the same noise")
    demand((eps[:, 0, 0, 0] - eps[:, 0, 0, 1]).std() > 1,
           "loss: the pixels of an image share their noise")
    demand((eps[0] - eps[1]).abs().min() > 0, "loss: the images of a batch share their noise")


def check_gradients_reach_the_model(student):
    w = torch.zeros((), requires_grad=True)
    loss = lend(student).loss(lambda x_t, t: w + 0 * x_t, torch.zeros(2, 1, 2, 2),
                              torch.tensor([1, 2]), torch.ones(2, 1, 2, 2))
    demand(isinstance(loss, torch.Tensor) and loss.requires_grad, "loss: no gradient can flow back "
           "to the model. Was something detached, or .item() taken?")
    loss.backward()
    expect(w.grad, -2.0, "the gradient of (1 - w)^2 at w = 0")
