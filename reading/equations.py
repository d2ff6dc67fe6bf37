r"""The equations, algorithms and figures of the papers, the code that has each, and its tests.

EQUATIONS[paper].equations[number] is an Equation.  The LaTeX is what GitHub's MathJax and
matplotlib's mathtext both read: \mid for the bar of a condition, and no \text, \left or aligned.
Vectors are not bold.  A test in tests/reading/ resolves every name, wants the number in the named
code's own source, and typesets every line.
"""
from typing import NamedTuple


class Equation(NamedTuple):
    """A numbered equation, algorithm or figure of a paper.

    latex: one line, or a list of lines; of an algorithm sentences with math between dollar signs,
        of a figure nothing ("").
    says: what it is for, in words of this project.
    code: the functions or classes that have it, separated by spaces.
    tests: the tests that prove it, separated by spaces, each without its "test_": of the file that
        mirrors the first of `code` (ddpm.DDPM: tests/test_ddpm.py); of another file
        FILE.NAME, where papers.ddim is tests/papers/test_ddim.py.
    """

    latex: str | list
    says: str
    code: str
    tests: str


class Paper(NamedTuple):
    """title, link (of arXiv, or where it can be read), and {number: Equation} in its order."""

    title: str
    link: str
    equations: dict


E = Equation
BOUND, DDPM = "papers.variational_bound.bound", "ddpm.DDPM"
EQUATIONS = {"Ho et al. 2020": Paper(
    "Denoising Diffusion Probabilistic Models", "https://arxiv.org/abs/2006.11239", {
        "Eq. 1": E([
            r"p_\theta(x_{0:T}) = p(x_T) \prod_{t=1}^T p_\theta(x_{t-1} \mid x_t)",
            r"p_\theta(x_{t-1} \mid x_t) = \mathcal{N}(x_{t-1}; \mu_\theta(x_t, t),"
            r" \Sigma_\theta(x_t, t))"],
            "The reverse chain: from pure noise, one learned Gaussian step after the other.",
            "ddpm.DDPM.sample",
            "on_gaussian_data_samples_have_the_mean_and_std_of_the_exact_recursion "
            "sample_starts_from_noise_of_the_generator_and_walks_the_reverse_process"),
        "Eq. 2": E([
            r"q(x_{1:T} \mid x_0) = \prod_{t=1}^T q(x_t \mid x_{t-1})",
            r"q(x_t \mid x_{t-1}) = \mathcal{N}(x_t; \sqrt{1 - \beta_t} x_{t-1}, \beta_t I)"],
            "One step of the forward chain shrinks the image a little and adds a little noise.",
            "ddpm.DDPM.q_sample", "iterating_eq_2_gives_eq_4"),
        "Eq. 3": E(
            r"\mathbb{E}[-\log p_\theta(x_0)] \leq \mathbb{E}_q\left[-\log p(x_T)"
            r" - \sum_{t \geq 1} \log \frac{p_\theta(x_{t-1} \mid x_t)}{q(x_t \mid x_{t-1})}\right]"
            r" = L", "The bound on the negative log-likelihood that training could minimise.",
            "papers.variational_bound.bound", "eq_3_is_eq_5"),
        "Eq. 4": E(
            r"q(x_t \mid x_0) = \mathcal{N}(x_t; \sqrt{\bar\alpha_t} x_0, (1 - \bar\alpha_t) I)",
            "t steps of Eq. 2 are one Gaussian: any x_t can be drawn in one jump.",
            "ddpm.DDPM.q_sample", "iterating_eq_2_gives_eq_4"),
        "Algorithm 1": E([
            "repeat", r"$x_0 \sim q(x_0)$", r"$t \sim \mathrm{Uniform}(\{1, \ldots, T\})$",
            r"$\epsilon \sim \mathcal{N}(0, I)$", r"take a gradient descent step on $\nabla_\theta"
            r" \| \epsilon - \epsilon_\theta(\sqrt{\bar\alpha_t} x_0 + \sqrt{1 - \bar\alpha_t}"
            r" \epsilon, t) \|^2$", "until converged"],
            "Training: noise an image to a random time, and ask the network for the noise.",
            "train.train ddpm.DDPM.loss ddpm.DDPM.draw_t",
            "ddpm.training_times_cover_exactly_1_to_T_and_differ_within_a_batch "
            "a_step_is_warmed_up_clipped_adam_and_its_ema"),
    }),
}
