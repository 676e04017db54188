"""Every metric of deq_nc.collapse from its definition, in float64 NumPy with loops and D x D matrices."""

import numpy as np


def oracle(h, y, w=None, b=None, *, num_classes, majority=None):
    """dict of metrics; `logit_gap` and `mean_gap` [N] tell how close each sample is to another decision."""
    h, k = np.asarray(h, float), num_classes
    n, d = h.shape
    here = [c for c in range(k) if (y == c).any()]
    kp = len(here)
    mu = np.zeros((k, d))
    for c in here:
        mu[c] = h[y == c].mean(0)
    mc = np.zeros((k, d))
    mc[here] = mu[here] - mu[here].mean(0)
    e = h - mu[y]
    s_w, s_b = e.T @ e / n, mc.T @ mc / kp
    inverse = np.linalg.pinv(s_b, rcond=1e-13, hermitian=True)
    variance = np.array([(e[y == c] ** 2).sum(1).mean() if c in here else np.nan for c in range(k)])
    pairs = [(i, j) for i in here for j in here if i != j]
    etf = np.zeros((k, k))
    etf[np.ix_(here, here)] = (np.eye(kp) - 1 / kp) / np.sqrt(kp - 1)
    unit = lambda g: g / np.linalg.norm(g)  # noqa: E731
    out = {
        "nc1": np.trace(s_w @ inverse) / kp,
        "nc1_trace": np.trace(s_w @ inverse),
        "nc1_ratio": np.trace(s_w) / np.trace(s_b),
        "nc1_class": np.array(
            [np.trace(e[y == c].T @ e[y == c] @ inverse) / kp / max((y == c).sum(), 1) for c in range(k)]
        ),
        "cdnv": np.mean([(variance[i] + variance[j]) / (2 * ((mu[i] - mu[j]) ** 2).sum()) for i, j in pairs]),
        "nc2_means": np.linalg.norm(unit(mc @ mc.T) - etf),
        "nc2_floor": np.sqrt(2 - 2 * np.sqrt(min(d / (kp - 1), 1))),
        "variance_class": variance,
        "gram_means": mc @ mc.T,
        **_frame(mc, here, "means"),
    }
    if majority is not None:
        out |= _blocks(mc, here, majority, "means")
        big = np.asarray(majority)[y]
        for name, rows in (("nc1_majority", big), ("nc1_minority", ~big)):
            out[name] = np.trace(e[rows].T @ e[rows] @ inverse) / kp / rows.sum() if rows.any() else np.nan
    square = (
        ((h[:, None] - mu[None, here]) ** 2).sum(2)
        if n * kp * d < 5e7
        else np.stack([((h - mu[c]) ** 2).sum(1) for c in here], 1)
    )
    near = np.array(here)[square.argmin(1)]
    two = np.sort(square, 1)[:, :2]
    out["accuracy_nearest"], out["mean_gap"] = (near == y).mean(), two[:, 1] - two[:, 0]
    if w is not None:
        w = np.asarray(w, float)
        logits = h @ w.T + (0 if b is None else np.asarray(b, float))
        choice = logits.argmax(1)
        full = (np.eye(k) - 1 / k) / np.sqrt(k - 1)
        w_here = np.zeros_like(w)
        w_here[here] = w[here]
        top = np.sort(logits, 1)
        out |= {
            "nc2_weights": np.linalg.norm(unit(w @ w.T) - full),
            "nc3": np.linalg.norm(unit(w_here) - unit(mc)),
            "nc3_product": np.linalg.norm(unit(w_here @ mc.T) - etf),
            "nc4": (choice != near).mean(),
            "accuracy": (choice == y).mean(),
            "logit_gap": top[:, -1] - top[:, -2],
            **_frame(w, range(k), "weights"),
        }
        if majority is not None:
            out |= _blocks(w, range(k), majority, "weights")
    return out


def _cosine(x, i, j):
    return x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])


def _frame(x, here, name):
    norm = np.linalg.norm(x[list(here)], axis=1)
    cosines = np.array([_cosine(x, i, j) for i in here for j in here if i != j])
    return {
        f"equinorm_{name}": norm.std() / norm.mean(),
        f"equiangle_{name}": cosines.std(),
        f"angle_gap_{name}": np.abs(cosines + 1 / (len(here) - 1)).mean(),
        f"max_cosine_{name}": cosines.max(),
    }


def _blocks(x, here, majority, name):
    a, b = [c for c in here if majority[c]], [c for c in here if not majority[c]]
    mean = lambda v: np.mean(v) if len(v) else np.nan  # noqa: E731
    within = [_cosine(x, i, j) for i in b for j in b if i != j]
    return {
        f"cosine_majority_{name}": mean([_cosine(x, i, j) for i in a for j in a if i != j]),
        f"cosine_cross_{name}": mean([_cosine(x, i, j) for i in a for j in b]),
        f"cosine_minority_{name}": mean(within),
        f"max_cosine_minority_{name}": max(within, default=np.nan),
        f"norm_majority_{name}": mean([np.linalg.norm(x[i]) for i in a]),
        f"norm_minority_{name}": mean([np.linalg.norm(x[i]) for i in b]),
    }


def clusters(n: int, d: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy features float32 [n, d] around k means, their labels in rotation, and weights float32 [k, d]."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % k
    h = rng.standard_normal((k, d))[y] + rng.standard_normal((n, d))
    return h.astype(np.float32), y, rng.standard_normal((k, d)).astype(np.float32)
