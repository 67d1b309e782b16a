"""The model in NumPy, float64, one row and one head at a time: the formulas and nothing else.

Letters as in the model: T tokens, D embed_dim, N heads, K kv heads, H head_dim, M slots. The
parameters are those of the flax model, their layer axis first.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.state import init_state


@dataclass
class Row:
    """What one row carries: a bank [M, D] a memory block, and past (key, value) a block."""

    banks: list
    windows: list


def params(config, seed=0):
    """Random parameters for the flax model, norms and biases away from their first values."""
    rng = np.random.default_rng(seed)

    def init():
        return LanguageModel(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32),
                                          init_state(config, 1))

    def draw(path, leaf):
        module, name = path[-2].key, path[-1].key
        if name in ("scale", "bias", "route_bias"):
            value = 0.3 * rng.normal(size=leaf.shape) + (name == "scale")
        elif name == "A_log":  # a slow decay
            value = 0.3 * rng.normal(size=leaf.shape) - 3
        else:
            fan_in = np.prod(leaf.shape[1:-1]) if module in ("o_proj", "down_proj") else (
                config.embed_dim)
            value = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
        return jnp.asarray(value, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, nn.unbox(jax.eval_shape(init)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis):
    weights = np.exp(x - x.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)


def norm(x, p, eps):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * p["scale"]


def frequencies(head_dim, theta, scaling):
    """Radians a position of each pair, by wavelength as Llama-3 defines them."""
    result = []
    for pair in range(head_dim // 2):
        freq = 1 / theta ** (2 * pair / head_dim)
        if scaling is not None:
            wavelength = 2 * np.pi / freq
            longest = scaling.original_max_position / scaling.low_freq_factor
            shortest = scaling.original_max_position / scaling.high_freq_factor
            if wavelength > longest:
                freq = freq / scaling.factor
            elif wavelength > shortest:
                blend = (scaling.original_max_position / wavelength - scaling.low_freq_factor) / (
                    scaling.high_freq_factor - scaling.low_freq_factor)
                freq = (1 - blend) * freq / scaling.factor + blend * freq
        result.append(freq)
    return np.array(result)


def rotate(x_TH, positions, freq):
    """Each pair (channel i, channel i + H/2) as a complex number, turned by its angle."""
    half = len(freq)
    pairs = x_TH[:, :half] + 1j * x_TH[:, half:]
    pairs = pairs * np.exp(1j * np.outer(positions, freq))
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def attention(p, config, a_TD, window, valid_T, positions=None, remembered_T=None):
    """What attention adds, [T, D], and the window after the segment.

    Memory tokens have positions of their own, and are not remembered in the window.
    """
    remembered_T = valid_T if remembered_T is None else remembered_T
    T, group = len(a_TD), config.num_heads // config.num_kv_heads
    freq = frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    keys = np.einsum("td,dkh->tkh", a_TD, p["k_proj"]["kernel"])
    values = np.einsum("td,dkh->tkh", a_TD, p["v_proj"]["kernel"])
    past = len(window)
    all_keys = np.stack([key for key, _ in window] + list(keys))
    all_values = np.stack([value for _, value in window] + list(values))
    positions = np.concatenate([np.arange(-past, 0),
                                np.arange(T) if positions is None else positions])
    seen_TS = np.ones((T, past + T), bool)
    seen_TS[:, past:] = np.tril(np.ones((T, T), bool)) & valid_T[None, :]
    out_TD = np.zeros((T, config.embed_dim))
    for head in range(config.num_heads):
        q_TH = rotate(a_TD @ p["q_proj"]["kernel"][:, head], positions[past:], freq)
        k_SH = rotate(all_keys[:, head // group], positions, freq)
        affinity_TS = np.where(seen_TS, q_TH @ k_SH.T / np.sqrt(config.head_dim), -1e30)
        out_TD += (softmax(affinity_TS, axis=1) @ all_values[:, head // group]
                   @ p["o_proj"]["kernel"][head])
    window = window + [(keys[t], values[t]) for t in range(T) if remembered_T[t]]
    return out_TD, window[max(0, len(window) - config.attention_window):]


def slot_keys(p, head):
    return p["slot_keys"][:, head] if "slot_keys" in p else 0.0


def memory_read(p, a_TD, bank_MD, eps, top_k=0):
    """g * E, [T, D]."""
    n_MD = norm(bank_MD, p["slot_norm"], eps)
    num_heads, H = p["q_proj"]["kernel"].shape[1:]
    E_TD = np.zeros_like(a_TD)
    for head in range(num_heads):
        q_TH = a_TD @ p["q_proj"]["kernel"][:, head]
        k_MH = n_MD @ p["k_proj"]["kernel"][:, head] + slot_keys(p, head)
        affinity_TM = q_TH @ k_MH.T / np.sqrt(H)
        if top_k:
            order_TM = np.argsort(-affinity_TM, axis=1, kind="stable")
            np.put_along_axis(affinity_TM, order_TM[:, top_k:], -np.inf, axis=1)
        E_TD += (softmax(affinity_TM, axis=1) @ (n_MD @ p["v_proj"]["kernel"][:, head])
                 @ p["o_proj"]["kernel"][head])
    gate = p["output_gate"]
    return sigmoid(E_TD @ gate["kernel"] + gate["bias"]) * E_TD


def memory_write(p, memory, h_TD, bank_MD, valid_T, eps):
    """The bank after the segment, [M, D]; `memory` is a MemoryConfig."""
    h_TD = h_TD[valid_T]
    if not len(h_TD):
        return bank_MD
    n_MD = norm(bank_MD, p["slot_norm"], eps)
    num_heads, H = p["q_proj"]["kernel"].shape[1:]
    queries, keys = ("q_proj", "k_proj") if memory.tied_addressing else (
        "write_q_proj", "write_k_proj")
    heads, opens = [], []
    for head in range(num_heads):
        k_MH = n_MD @ p[keys]["kernel"][:, head] + slot_keys(p, head)
        affinity_MT = k_MH @ (h_TD @ p[queries]["kernel"][:, head]).T / np.sqrt(H)
        heads.append(softmax(affinity_MT, axis=1) @ (h_TD @ p["write_proj"]["kernel"][:, head]))
        if memory.write == "null":  # the tokens' share of a softmax with one more token
            null = p["route_bias"][head] + np.log(len(h_TD))
            with_null = np.concatenate([affinity_MT, np.full((len(k_MH), 1), null)], axis=1)
            u_M = 1 - softmax(with_null, axis=1)[:, -1]
        if memory.write == "routed":
            rho_M = np.log(np.exp(affinity_MT).mean(axis=1)) - p["route_bias"][head]
            u_M = np.minimum(np.maximum(1.2 * sigmoid(rho_M) - 0.1, 0), 1)
        if memory.write in ("null", "routed"):
            if memory.write_top_k:
                u_M[np.argsort(-np.exp(affinity_MT).sum(axis=1))[memory.write_top_k:]] = 0
            opens += [u_M] * H
    S_MD = np.concatenate(heads, axis=1)

    def gate(name):
        logit_MD = S_MD @ p[name]["kernel"] + p[name]["bias"]
        if memory.gates_see_slot:
            logit_MD = logit_MD + n_MD @ p[name + "_of_slot"]["kernel"]
        return sigmoid(logit_MD)

    f_MD = gate("forget_gate")
    i_MD = 1 - f_MD if memory.coupled_gates else gate("input_gate")
    new_MD = i_MD * np.tanh(S_MD) + f_MD * bank_MD
    if opens:
        u_MD = np.stack(opens, axis=1)
        new_MD = u_MD * new_MD + (1 - u_MD) * bank_MD
    return new_MD


def block(p, config, x_TD, bank_MD, window, valid_T):
    """One block: the stream, the bank and the window after it (no bank: None)."""
    eps = config.norm_eps
    a_TD = norm(x_TD, p["attention_norm"], eps)
    added_TD, window = attention(p["attention"], config, a_TD, window, valid_T)
    if bank_MD is not None:
        added_TD = added_TD + memory_read(p["memory"], a_TD, bank_MD, eps, config.memory.top_k)
    x_TD = x_TD + added_TD
    if bank_MD is not None:
        h_TD = norm(x_TD, p["memory"]["write_norm"], eps)
        bank_MD = memory_write(p["memory"], config.memory, h_TD, bank_MD, valid_T, eps)
    y_TD = norm(x_TD, p["mlp_norm"], eps)
    gate_TF = y_TD @ p["mlp"]["gate_proj"]["kernel"]
    hidden_TF = gate_TF * sigmoid(gate_TF) * (y_TD @ p["mlp"]["up_proj"]["kernel"])
    return x_TD + hidden_TF @ p["mlp"]["down_proj"]["kernel"], bank_MD, window


def fresh(config):
    """What a row carries before its first token."""
    m, D = config.memory, config.embed_dim
    banks = [np.array([np.eye(D)[r % D] for r in range(m.num_slots)])
             for _ in range(m.num_layers)]
    return Row(banks=banks, windows=[[] for _ in range(config.num_layers)])


def segment(variables, config, tokens_T, row, valid_T):
    """Logits [T, V] of one segment of one row, and the row's state after it."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    P = config.memory.num_layers
    x_TD = p["embedding"][tokens_T]
    banks, windows = [], []
    for layer in range(config.num_layers):
        stack, index = ("memory_blocks", layer) if layer < P else ("blocks", layer - P)
        own = jax.tree.map(lambda leaf, index=index: leaf[index], p[stack])
        x_TD, bank_MD, window = block(own, config, x_TD, row.banks[layer] if layer < P else None,
                                      row.windows[layer], valid_T)
        windows.append(window)
        if layer < P:
            banks.append(bank_MD)
    x_TD = norm(x_TD, p["final_norm"], config.norm_eps)
    head_DV = p["embedding"].T if config.tie_embeddings else p["lm_head"]["kernel"]
    return x_TD @ head_DV, Row(banks=banks, windows=windows)


def sequence(variables, config, tokens_L, valid_L=None, reset_S=None):
    """Logits [L, V] of one row read segment by segment, and the row's last state."""
    valid_L = np.ones(len(tokens_L), bool) if valid_L is None else valid_L
    row, logits = fresh(config), []
    for index, start in enumerate(range(0, len(tokens_L), config.segment_length)):
        part = slice(start, start + config.segment_length)
        if reset_S is not None and reset_S[index]:
            row = fresh(config)
        logits_TV, row = segment(variables, config, tokens_L[part], row, valid_L[part])
        logits.append(logits_TV)
    return np.concatenate(logits), row
