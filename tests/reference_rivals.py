"""RMT, ARMT and gated DeltaNet in NumPy, float64, a row at a time, from their papers' formulas."""

import jax
import numpy as np
from reference import attention, norm, sigmoid

DPFP_ORDER = 3
CONV_WIDTH = 4


def params_of(variables):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])


def filled(config, tokens_T, valid_T):
    """A segment of full length: what is missing is padding."""
    missing = config.segment_length - len(tokens_T)
    return np.pad(tokens_T, (0, missing)), np.pad(valid_T, (0, missing))


def llama_block(p, config, x_SD, window, valid_S, before=0, after=0, beside=lambda a_SD: 0.0):
    """A block: attention over the window and the valid places up to oneself and what is beside it,
    then the mlp; and the window after it.

    Args:
      before, after: memory tokens around the segment.
      beside: of the normalised input; nothing without a memory.
    """
    eps, T = config.norm_eps, config.segment_length
    positions = np.concatenate([np.arange(before) - before - config.attention_window,
                                np.arange(len(x_SD) - before - after), T + np.arange(after)])
    segment_S = (positions >= 0) & (positions < T)
    a_SD = norm(x_SD, p["attention_norm"], eps)
    added_SD, window = attention(p["attention"], config, a_SD, window, valid_S, positions,
                                 segment_S & valid_S)
    x_SD = x_SD + added_SD + beside(a_SD)
    y_SD = norm(x_SD, p["mlp_norm"], eps)
    gate_SF = y_SD @ p["mlp"]["gate_proj"]["kernel"]
    up_SF = y_SD @ p["mlp"]["up_proj"]["kernel"]
    return x_SD + (gate_SF * sigmoid(gate_SF) * up_SF) @ p["mlp"]["down_proj"]["kernel"], window


def head(p, config, x_TD):
    return x_TD @ (p["embedding"].T if config.tie_embeddings else p["lm_head"]["kernel"])


def rmt(variables, config, segments):
    """Logits of each segment, [T, V], and the memory after the last, [M, D].

    Args:
      segments: (tokens, valid) of each.
    """
    p, M = params_of(variables), config.memory.num_slots
    memory_MD, logits = p["memory_tokens"]["embedding"], []
    windows = [[] for _ in range(config.num_layers)]
    for tokens_T, valid_T in segments:
        full_T, there_T = filled(config, tokens_T, valid_T)
        x_SD = np.concatenate([memory_MD, p["embedding"][full_T], memory_MD])
        valid_S = np.concatenate([np.ones(M, bool), there_T, np.ones(M, bool)])
        for layer in range(config.num_layers):
            own = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["blocks"])
            x_SD, windows[layer] = llama_block(own, config, x_SD, windows[layer], valid_S, M, M)
        x_SD = norm(x_SD, p["final_norm"], config.norm_eps)
        logits.append(head(p, config, x_SD[M:M + len(tokens_T)]))
        if valid_T.any():
            memory_MD = x_SD[-M:]
    return logits, memory_MD


def dpfp(k_K, order):
    """phi(k): products of relu([k, -k]) with itself, turned by 1..order places; of length 1."""
    r = np.maximum(np.concatenate([k_K, -k_K]), 0)
    n = len(r)
    phi = np.array([r[i] * r[(i - j) % n] for j in range(1, order + 1) for i in range(n)])
    return phi / np.linalg.norm(phi)


def recall(A_ED, z_E, phi_E):
    """The value stored under a key, and how far the key is known."""
    known = z_E @ phi_E + 1e-5
    return phi_E @ A_ED / known, known


def armt(variables, config, segments):
    """Logits of each segment, [T, V], and (A [E, D], z [E]) of each memory block at the end."""
    p, m = params_of(variables), config.memory
    P, M, E, D = m.num_layers, m.num_slots, 2 * DPFP_ORDER * m.key_dim, config.embed_dim
    stored, logits = [(np.zeros((E, D)), np.zeros(E)) for _ in range(P)], []
    windows = [[] for _ in range(config.num_layers)]
    for tokens_T, valid_T in segments:
        full_T, there_T = filled(config, tokens_T, valid_T)
        x_SD = np.concatenate([p["embedding"][full_T], p["memory_tokens"]["embedding"]])
        valid_S = np.concatenate([there_T, np.ones(M, bool)])
        for layer in range(config.num_layers):
            stack, index = ("memory_blocks", layer) if layer < P else ("blocks", layer - P)
            own = jax.tree.map(lambda leaf, index=index: leaf[index], p[stack])
            if layer < P:
                memory, (A_ED, z_E) = own["memory"], stored[layer]
                x_SD = x_SD + [recall(A_ED, z_E, dpfp(x_D @ memory["q_proj"]["kernel"],
                                                      DPFP_ORDER))[0] for x_D in x_SD]
            x_SD, windows[layer] = llama_block(own, config, x_SD, windows[layer], valid_S, 0, M)
            if layer < P and valid_T.any():
                stored[layer] = associate(memory, m, x_SD[-M:], A_ED, z_E)
        x_SD = norm(x_SD, p["final_norm"], config.norm_eps)
        logits.append(head(p, config, x_SD[:len(tokens_T)]))
    return logits, stored


def associate(p, config, m_MD, A_ED, z_E):
    """The memory after the memory tokens wrote: all of them saw it as it was before."""
    new_A_ED, new_z_E = A_ED.copy(), z_E.copy()
    for m_D in m_MD:
        phi_E = dpfp(m_D @ p["k_proj"]["kernel"], DPFP_ORDER)
        old_D, known = recall(A_ED, z_E, phi_E)
        beta = sigmoid(m_D @ p["write_gate"]["kernel"] + p["write_gate"]["bias"])
        new_A_ED += np.outer(phi_E, beta * (m_D @ p["v_proj"]["kernel"] - old_D))
        new_z_E += np.clip(1 - known, 0, 1) * phi_E
    return new_A_ED, new_z_E


def delta(variables, config, segments):
    """Logits of each segment, [T, V], and (S [N, V, K], tail [3, D]) of each memory block."""
    p, m, D = params_of(variables), config.memory, config.embed_dim
    P, N, K = m.num_layers, m.num_heads, m.key_dim
    stored = [(np.zeros((N, D // N, K)), np.zeros((CONV_WIDTH - 1, D))) for _ in range(P)]
    windows, logits = [[] for _ in range(config.num_layers)], []
    for tokens_T, valid_T in segments:
        x_TD = p["embedding"][tokens_T]
        for layer in range(config.num_layers):
            stack, index = ("memory_blocks", layer) if layer < P else ("blocks", layer - P)
            own = jax.tree.map(lambda leaf, index=index: leaf[index], p[stack])

            def beside(a_TD, own=own, layer=layer, valid_T=valid_T):
                if layer >= P:
                    return 0.0
                out_TD, stored[layer] = delta_layer(own["memory"], a_TD, valid_T, *stored[layer],
                                                    config.norm_eps)
                return out_TD

            x_TD, windows[layer] = llama_block(own, config, x_TD, windows[layer], valid_T,
                                               beside=beside)
        logits.append(head(p, config, norm(x_TD, p["final_norm"], config.norm_eps)))
    return logits, stored


def delta_layer(p, a_TD, valid_T, S_NVK, tail_WD, eps):
    """What the layer adds, [T, D] (zero where not valid), and its state after the segment."""
    def silu(x):
        return x * sigmoid(x)

    def convolved(name):
        taps_CDNH = p[f"{name}_conv"]["kernel"][:, None] * p[f"{name}_proj"]["kernel"][None]
        return silu(np.einsum("CD,CDNH->NH", last_CD, taps_CDNH))

    def unit(x):
        return x / np.sqrt((x**2).sum(axis=-1, keepdims=True) + 1e-6)

    out_TD = np.zeros_like(a_TD)
    for t in np.flatnonzero(valid_T):
        a_D = a_TD[t]
        last_CD = np.concatenate([tail_WD, a_D[None]])
        q_NK, k_NK, v_NV = unit(convolved("q")), unit(convolved("k")), convolved("v")
        dt_N = np.log1p(np.exp(a_D @ p["a_proj"]["kernel"] + p["dt_bias"]))
        alpha_N = np.exp(-np.exp(p["A_log"]) * dt_N)
        S_NVK, o_NV = delta_rule(S_NVK, q_NK / np.sqrt(q_NK.shape[-1]), k_NK, v_NV, alpha_N,
                                 sigmoid(a_D @ p["b_proj"]["kernel"]))
        gate_NV = silu(np.einsum("D,DNV->NV", a_D, p["g_proj"]["kernel"]))
        out_TD[t] = np.einsum("NV,NVD->D", norm(o_NV, p["o_norm"], eps) * gate_NV,
                              p["o_proj"]["kernel"])
        tail_WD = last_CD[1:]
    return out_TD, (S_NVK, tail_WD)


def delta_rule(S_NVK, q_NK, k_NK, v_NV, alpha_N, beta_N):
    """One token: the matrix of each head after it, and what the head reads."""
    S_NVK, o_NV = S_NVK.copy(), np.zeros_like(v_NV)
    for n, (q, k, v, alpha, beta) in enumerate(zip(q_NK, k_NK, v_NV, alpha_N, beta_N,
                                                   strict=True)):
        S_NVK[n] = S_NVK[n] @ (alpha * (np.eye(len(k)) - beta * np.outer(k, k))) + (
            beta * np.outer(v, k))
        o_NV[n] = S_NVK[n] @ q
    return S_NVK, o_NV
