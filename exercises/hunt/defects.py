"""Exercise 13: what is put into the files of this folder, all of it seen in public code.

A handout takes one defect for each file; with another --variant it takes others.
"""
NAMES = {
    "alpha-bar-off-by-one": "a product of alphas has a factor too many or too few",
    "variance-for-deviation": "noise is scaled by a variance, not by its square root",
    "one-t-for-the-batch": "all images of a batch share one time",
    "t-never-T": "a random integer whose upper end is exclusive",
    "wrong-target": "the network is taught something else than the noise",
    "noise-at-the-last-step": "x_0 is noisy",
    "last-step-skipped": "the loop over t ends too early",
    "unknown-option-accepted": "a misspelt option means the default, and nobody is told",
    "dead-clipping": "what is clipped is not what is used",
    "wrong-time-in-the-posterior": "alpha_bar_t stands where alpha_bar_{t-1} belongs",
    "time-ignored": "the network never hears of t",
    "multipliers-accumulated": "a level's multiplier multiplies the level before it",
    "norm-not-called": "a layer is made and never used",
    "size-hard-coded": "it works for one size of image only",
    "errors-swallowed": "a call that fails goes unnoticed",
    "average-swapped": "decay and 1 - decay are exchanged",
    "dropout-left-on": "what is sampled from is in training mode",
    "wrong-range": "the network sees [0, 1], and not [-1, 1]",
    "values-truncated": "values are cut to integers, not rounded",
}

DEFECTS = {                                          # (name, text as it is, text as it becomes)
    "forward": [
        ("variance-for-deviation", "(1 - alpha_bar).sqrt() * eps", "(1 - alpha_bar) * eps"),
        ("alpha-bar-off-by-one", "torch.tensor([0.0, *beta])", "torch.tensor([beta[0], *beta])")],
    "objective": [
        ("one-t-for-the-batch", "(1, T + 1, (B,))", "(1, T + 1, (1,)).expand(B)"),
        ("t-never-T", "(1, T + 1, (B,))", "(1, T, (B,))"),
        ("wrong-target", "(model(x_t, t), eps)", "(model(x_t, t), x_t - x_0)")],
    "ancestral": [
        ("noise-at-the-last-step", "torch.randn(shape) if t > 1 else torch.zeros(shape)",
         "torch.randn(shape) if t > 0 else torch.zeros(shape)"),
        ("unknown-option-accepted", 'raise ValueError(f"there is no variance {kind!r}")',
         "return beta"),
        ("last-step-skipped", "range(len(beta) - 1, 0, -1)", "range(len(beta) - 1, 1, -1)")],
    "clipping": [
        ("dead-clipping", "x_0_hat = x_0_hat.clamp(-1, 1)", "x_0_hat.clamp(-1, 1)"),
        ("wrong-time-in-the-posterior", "alpha_bar[t - 1].sqrt()", "alpha_bar[t].sqrt()")],
    "network": [
        ("time-ignored", "h = h + linear(emb)", "bias = linear(emb)"),
        ("multipliers-accumulated", "channels * mult\n", "C * mult\n")],
    "attention": [
        ("norm-not-called", "h = self.norm(x)", "h = x"),
        ("size-hard-coded", "(B, C, H * W)", "(B, C, 8 * 8)")],
    "averaging": [
        ("errors-swallowed", "    nn.utils.clip_grad_norm_(model.parameters(), max_norm)\n",
         "    try:\n        nn.utils.clip_grads_norm_(model.parameters(), max_norm)\n"
         "    except Exception:\n        pass\n"),
        ("dropout-left-on", "return ema.eval()", "return ema"),
        ("average-swapped", "mul_(decay).add_(weight, alpha=1 - decay)",
         "mul_(1 - decay).add_(weight, alpha=decay)")],
    "pictures": [
        ("values-truncated", "((x + 1) * 127.5).round()", "((x + 1) * 127.5)"),
        ("wrong-range", "/ 127.5 - 1", "/ 255")],
}


def plant(file, source, variant=0):
    """Return (name, source of a file of this folder with its defect of that variant)."""
    name, old, new = DEFECTS[file][variant % len(DEFECTS[file])]
    if source.count(old) != 1:
        raise ValueError(f"the defect {name} does not fit {file}.py")
    return name, source.replace(old, new)
