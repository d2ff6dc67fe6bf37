"""7: Algorithm 2, ancestral sampling."""
import torch

from .kit import Process, demand, expect

BETA = [0.1, 0.3, 0.2, 0.5]
BAR = [1.0, 0.9, 0.63, 0.504, 0.252]                 # alpha_bar_0..alpha_bar_4
METHODS = ("p_sample", "estimate_x_0", "posterior_sample", "reverse_process", "sample")


def lend(student, variance="beta"):
    return Process.of(BETA, student.ddpm.DDPM, *METHODS, variance=variance)


def gaussian(m, s):
    """The perfect model where x_0 ~ N(m, s^2): eps* in closed form."""
    def model(x_t, t):
        bar = torch.tensor(BAR)[t].reshape(-1, *[1] * (x_t.dim() - 1))
        return (1 - bar) ** 0.5 * (x_t - bar ** 0.5 * m) / (bar * s ** 2 + 1 - bar)
    return model


def check_one_step_has_the_mean_and_deviation_of_algorithm_2(student):
    """From a fixed x_t, with eps_theta = 0.4 everywhere and nothing clipped."""
    t, n, eps_theta, x = 3, 200_000, 0.4, 0.8
    beta, bar, before = BETA[t - 1], BAR[t], BAR[t - 1]
    tilde = (1 - before) / (1 - bar) * beta
    mean = (x - beta / (1 - bar) ** 0.5 * eps_theta) / (1 - beta) ** 0.5     # Algorithm 2, line 4
    for variance, var in (("beta", beta), ("beta_tilde", tilde)):
        other = tilde if variance == "beta" else beta
        torch.manual_seed(student.seed)
        x_t = torch.full((n, 1), x)
        got = lend(student, variance).p_sample(lambda x_t, t: torch.full_like(x_t, eps_theta), x_t,
                                               t, clip=False)
        demand(got is not None, "p_sample: nothing was returned")
        demand(got.shape == x_t.shape, f"p_sample: expected the shape {tuple(x_t.shape)}, got "
               f"{tuple(got.shape)}")
        x_0_hat = (x - (1 - bar) ** 0.5 * eps_theta) / bar ** 0.5
        expect(got.mean(), mean, f"the mean of p_sample at t = {t}, Algorithm 2, line 4", [
            ("when sqrt(beta_t) stands where beta_t belongs",
             (x - beta ** 0.5 / (1 - bar) ** 0.5 * eps_theta) / (1 - beta) ** 0.5),
            ("when the division by sqrt(alpha_t) is missing",
             x - beta / (1 - bar) ** 0.5 * eps_theta),
            ("when alpha_bar_t stands where alpha_t belongs",
             (x - (1 - bar) / (1 - bar) ** 0.5 * eps_theta) / bar ** 0.5),
            ("when x_0_hat is returned: that is a guess of x_0, not of x_{t-1}", x_0_hat)],
            rtol=0, atol=0.01)
        expect(got.std(), var ** 0.5, f"the deviation of p_sample at t = {t}, variance "
               f"{variance!r}, Algorithm 2, line 4", [
            ("when the variance stands where the deviation belongs", var),
            (f"when sigma_t is taken of the other variance, not {variance!r}", other ** 0.5),
            ("when no noise is added", 0.0), ("when the noise is not scaled", 1.0)],
            rtol=0.01, atol=0.003)


def check_the_last_step_is_deterministic(student):
    """Algorithm 2, line 3: z = 0 at t = 1.  For data that are one point, x_0 is that point."""
    for variance in ("beta", "beta_tilde"):
        process, x_t = lend(student, variance), torch.full((1000, 1), 0.7)
        got = process.p_sample(gaussian(0.3, 0.0), x_t, 1)
        demand(got.std() < 1e-6, f"p_sample at t = 1: the deviation is {got.std().item():.3g}, not "
               "0. This is what you get when noise is added at the last step.")
        expect(got, torch.full((1000, 1), 0.3), "p_sample at t = 1 where all data are 0.3")


def check_one_step_takes_q_t_to_q_t_minus_1(student):
    """Two cases in which a variance is exact: data N(0, 1) with beta, one point with beta_tilde."""
    n = 200_000
    torch.manual_seed(student.seed)
    for m, s, variance in ((0.0, 1.0, "beta"), (0.5, 0.0, "beta_tilde")):
        for t in (4, 3, 2):
            x_t = BAR[t] ** 0.5 * m + (BAR[t] * s ** 2 + 1 - BAR[t]) ** 0.5 * torch.randn(n, 1)
            got = lend(student, variance).p_sample(gaussian(m, s), x_t, t, clip=False)
            mean, std = BAR[t - 1] ** 0.5 * m, (BAR[t - 1] * s ** 2 + 1 - BAR[t - 1]) ** 0.5
            what = f"of x_{t - 1}, where x_0 ~ N({m}, {s}^2) and x_{t} ~ q(x_{t})"
            expect(got.mean(), mean, f"the mean {what}", rtol=0, atol=0.015)
            expect(got.std(), std, f"the deviation {what}", rtol=0.015)


def check_x_0_hat_is_clipped_before_the_mean(student):
    """A model far off: x_0_hat = 5 or so must count as 1, and x_{t-1} itself is not clipped."""
    t = 3
    x_t = torch.full((1000, 1), 2.5)
    process = lend(student, "beta_tilde")

    def model(x_t, t):
        return torch.full_like(x_t, -3.0)

    weight = BAR[t - 1] ** 0.5 * BETA[t - 1] / (1 - BAR[t])
    rest = (1 - BETA[t - 1]) ** 0.5 * (1 - BAR[t - 1]) / (1 - BAR[t]) * 2.5
    far = (2.5 + 3 * (1 - BAR[t]) ** 0.5) / BAR[t] ** 0.5
    torch.manual_seed(student.seed)
    got = process.p_sample(model, x_t, t).mean()
    expect(got, weight + rest, "the mean of p_sample with x_0_hat clipped to 1", [
        ("when nothing is clipped", weight * far + rest),
        ("when x_{t-1} is clipped instead of x_0_hat", 1.0)], rtol=0, atol=0.06)
    got = process.p_sample(model, x_t, t, clip=False).mean()
    expect(got, weight * far + rest, "the mean of p_sample with clip=False", [
        ("when x_0_hat is clipped although clip is False", weight + rest)], rtol=0, atol=0.06)


def check_sample_asks_for_T_to_1_in_order(student):
    """Algorithm 2, line 2: for t = T, ..., 1."""
    asked = []

    def model(x_t, t):
        demand(isinstance(t, torch.Tensor) and t.shape == (len(x_t),),
               "the model must get t as a (B,) tensor, one time for each image")
        demand(len(set(t.tolist())) == 1, "in one step of sampling all images have the same time")
        asked.append(int(t[0]))
        return torch.zeros_like(x_t)

    x_0, error = None, ""
    try:
        x_0 = lend(student).sample(model, (2, 1, 2, 2))
    except (ValueError, IndexError) as raised:                   # of a t outside 1..T, say
        error = f" Then came: {raised}."
    zero_based = "This is what you get from range(T - 1, -1, -1): our t is the paper's, 1..T."
    diagnosis = {(3, 2, 1, 0): zero_based, (4, 3, 2, 1, 0): "There is no step from t = 0.",
                 (4, 3, 2): "This is what you get when the last step is skipped.",
                 (1, 2, 3, 4): "This is what you get when time runs forwards.",
                 (3, 2, 1): zero_based if error else
                 "This is what you get when the first step is skipped."}.get(tuple(asked), "")
    demand(asked == [4, 3, 2, 1] and not error, f"sample: with T = 4 the model was asked for t = "
           f"{asked}, not [4, 3, 2, 1].{error} {diagnosis}")
    demand(x_0 is not None, "sample: nothing was returned")
    demand(x_0.shape == (2, 1, 2, 2), f"sample: expected the shape (2, 1, 2, 2), got "
           f"{tuple(x_0.shape)}")


def check_all_of_sampling_gives_the_data(student):
    """One point comes back exactly; N(0, 1) has its mean and deviation."""
    torch.manual_seed(student.seed)
    got = lend(student, "beta_tilde").sample(gaussian(0.3, 0.0), (100, 1))
    expect(got, torch.full((100, 1), 0.3), "samples where all data are 0.3", atol=1e-4)
    got = lend(student).sample(gaussian(0.0, 1.0), (100_000, 1), clip=False)
    from_zero = 0.0
    for b in reversed(BETA[1:]):
        from_zero = (1 - b) * from_zero + b
    expect(got.std(), BAR[1] ** 0.5, "the deviation of x_0 where data are "
           "N(0, 1): the last step takes the mean, sqrt(alpha_bar_1)", [
        ("when x_T is not drawn from N(0, I) but is 0", (BAR[1] * from_zero) ** 0.5),
        ("when noise is added at the last step", 1.0)], rtol=0.02)


def check_reverse_process_shows_every_step(student):
    """Yields t = T, ..., 0 with x_t and x_0_hat; at t = 0 both are x_0."""
    x_T = torch.full((3, 1), 0.9)
    steps = list(lend(student).reverse_process(gaussian(0.3, 0.0), x_T))
    demand([t for t, _, _ in steps] == [4, 3, 2, 1, 0], "reverse_process: expected t = 4, 3, 2, 1, "
           f"0, got {[t for t, _, _ in steps]}")
    expect(steps[0][1], x_T, "x_T, the first that reverse_process yields")
    for t, _, x_0_hat in steps:
        expect(x_0_hat, torch.full((3, 1), 0.3), f"x_0_hat at t = {t}, where all data are 0.3",
               atol=1e-4)
    expect(steps[-1][1], steps[-1][2], "x_t and x_0_hat at t = 0")


def check_the_generator_fixes_the_noise(student):
    """The same generator, the same x_{t-1}; no noise from anywhere else."""
    process, x_t = lend(student), torch.zeros(50, 1)
    draws = []
    for seed in (0, 0, 1):
        g = torch.Generator().manual_seed(seed)
        draws.append(process.p_sample(gaussian(0, 1), x_t, 3, generator=g))
    demand(torch.equal(draws[0], draws[1]), "p_sample: the same generator gave other noise. Pass "
           "generator to torch.randn.")
    demand(not torch.equal(draws[0], draws[2]), "p_sample: another generator gave the same noise")
    demand(draws[0].unique().numel() > 40, "p_sample: all images share their noise")
