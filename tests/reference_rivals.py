"""RMT and ARMT in NumPy, float64, one row at a time, from the formulas of their papers."""

import jax
import numpy as np
from reference import attention, norm, sigmoid

DPFP_ORDER = 3


def params_of(variables):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])


def filled(config, tokens_T, valid_T):
    """A segment of full length: what is missing is padding."""
    missing = config.segment_length - len(tokens_T)
    return np.pad(tokens_T, (0, missing)), np.pad(valid_T, (0, missing))


def llama_block(p, config, x_SD, window, valid_S, before):
    """A block without memory: attention over the window and the valid places up to oneself, then
    the mlp; and the window after it. M or no memory tokens are `before` the segment, M after it."""
    eps, M, T, W = (config.norm_eps, config.memory.num_slots, config.segment_length,
                    config.attention_window)
    tokens = np.arange(M)
    positions = np.concatenate([tokens[:before] - M - W, np.arange(T), T + tokens])
    segment_S = (positions >= 0) & (positions < T)
    added_SD, window = attention(p["attention"], config, norm(x_SD, p["attention_norm"], eps),
                                 window, valid_S, positions, segment_S & valid_S)
    x_SD = x_SD + added_SD
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
            x_SD, windows[layer] = llama_block(own, config, x_SD, windows[layer], valid_S, M)
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
            x_SD, windows[layer] = llama_block(own, config, x_SD, windows[layer], valid_S, 0)
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
