"""A linear probe: ridge regression on one-hot labels, in closed form, cross-validated."""

import numpy as np

RIDGES = tuple(10.0**power for power in range(-6, 4))
"""Ridge penalties that are tried, as multiples of the mean squared length of an example."""
FOLDS = 5


def predictions(features_BF: np.ndarray, labels_B: np.ndarray, seed: int = 0) -> np.ndarray:
    """Predicts the label of each example by a probe that was fitted without it, int [B].

    The examples are split into FOLDS parts. Those of a part are predicted by

        argmax over labels of  (x - mean) W + mean label,
        W = argmin |(X - mean) W - (Y - mean label)|^2 + ridge |W|^2

    fitted to the other parts: X are their features, Y their one-hot labels. Of RIDGES it takes the
    one with the smallest leave-one-out error on those.

    Args:
      features_BF: float.
      labels_B: int, from 0.
    """
    order = np.random.default_rng(seed).permutation(len(labels_B))
    one_hot = np.eye(labels_B.max() + 1)[labels_B]
    found = np.empty(len(labels_B), int)
    for fold in range(FOLDS):
        held_out = order[fold::FOLDS]
        others = np.setdiff1d(order, held_out)
        if len(held_out):
            scores = _fit(features_BF[others], one_hot[others], features_BF[held_out])
            found[held_out] = scores.argmax(axis=1)
    return found


def _fit(x_NF: np.ndarray, y_NC: np.ndarray, new_OF: np.ndarray) -> np.ndarray:
    """The scores of new examples, by the dual solution: F may be much larger than N.

    An unpenalised mean is left in: with the centred kernel's eigenvectors V and eigenvalues s, the
    hat matrix is 1/N + V diag(s / (s + ridge)) V^T, whose diagonal gives the leave-one-out errors.
    """
    x_NF, new_OF = (np.asarray(a, np.float64) for a in (x_NF, new_OF))
    mean_F, mean_C = x_NF.mean(axis=0), y_NC.mean(axis=0)
    x_NF, y_NC = x_NF - mean_F, y_NC - mean_C
    values, vectors = np.linalg.eigh(x_NF @ x_NF.T)
    values = np.maximum(values, 0)
    scale = max(values.mean(), 1e-30)
    rotated = vectors.T @ y_NC
    errors = []
    for ridge in np.array(RIDGES) * scale:
        shrunk = values / (values + ridge)
        residual = y_NC - vectors @ (shrunk[:, None] * rotated)
        leverage = 1 / len(y_NC) + (vectors**2) @ shrunk
        errors.append(np.mean((residual / np.maximum(1 - leverage, 1e-9)[:, None]) ** 2))
    best = RIDGES[int(np.argmin(errors))] * scale
    alpha_NC = vectors @ (rotated / (values + best)[:, None])
    return (new_OF - mean_F) @ (x_NF.T @ alpha_NC) + mean_C


def constant(labels_B: np.ndarray) -> float:
    """The share of the most frequent label, which the best constant answer reaches."""
    return float(np.bincount(labels_B).max() / len(labels_B))
