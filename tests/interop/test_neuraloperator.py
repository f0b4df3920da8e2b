"""neuraloperator's FNO read into ours: against its formulas in NumPy, and against itself where it is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from scipy.special import ndtr

from opkit.interop import read_neuraloperator
from solvers import Grid

DEPTH, WIDTH = 2, 4


def state_dict(kept=(4, 3), dtype=np.float64, seed=0):
    """As of `FNO(n_modes=(4, 4), in_channels=2, out_channels=1, hidden_channels=4, n_layers=2)`, with random arrays."""
    random = np.random.default_rng(seed)
    draw = lambda *shape: random.normal(size=shape).astype(dtype)
    weights, ones = {}, (1,) * len(kept)
    mlp = lambda name, *sizes: {
        f"{name}.fcs.{i}.{kind}": draw(*((sizes[i + 1], sizes[i], 1) if kind == "weight" else (sizes[i + 1],)))
        for i in range(2)
        for kind in ("weight", "bias")
    }
    weights |= mlp("lifting", 2 + len(kept), 7, WIDTH) | mlp("projection", WIDTH, 5, 1)
    for i in range(DEPTH):
        shape = (WIDTH, WIDTH, *kept)
        weights[f"fno_blocks.convs.{i}.weight.tensor"] = draw(*shape) + dtype(1) * 1j * draw(*shape)
        weights[f"fno_blocks.convs.{i}.bias"] = draw(WIDTH, *ones)
        weights[f"fno_blocks.fno_skips.{i}.conv.weight"] = draw(WIDTH, WIDTH, 1)
        weights[f"fno_blocks.channel_mlp_skips.{i}.weight"] = draw(1, WIDTH, *ones)
        weights |= mlp(f"fno_blocks.channel_mlp.{i}", WIDTH, 3, WIDTH)
    return weights


def formulas(weights, u):
    """What neuraloperator computes of `u: (2, n1, n2)`, in NumPy's transforms."""
    activation = lambda x: x * ndtr(x)
    linear = lambda name, x: np.einsum("oi,i...->o...", weights[f"{name}.weight"][..., 0], x)
    affine = lambda name, x: linear(name, x) + weights[f"{name}.bias"][:, None, None]
    mlp = lambda name, x: affine(f"{name}.fcs.1", activation(affine(f"{name}.fcs.0", x)))
    places = np.meshgrid(*(np.arange(n) / n for n in u.shape[1:]), indexing="ij")
    x = mlp("lifting", np.concatenate([u, places]))
    for i in range(DEPTH):
        after = activation if i < DEPTH - 1 else lambda x: x
        name = f"fno_blocks.convs.{i}"
        tensor = weights[f"{name}.weight.tensor"]
        modes, n = tensor.shape[2:], x.shape[1]
        kept = slice(n // 2 - modes[0] // 2, n // 2 + modes[0] // 2 + modes[0] % 2)
        spectrum = np.fft.fftshift(np.fft.rfft2(x, norm="forward"), 1)
        mixed = np.zeros_like(spectrum)
        mixed[:, kept, : modes[1]] = np.einsum("iokl,ikl->okl", tensor, spectrum[:, kept, : modes[1]])
        h = np.fft.irfft2(np.fft.ifftshift(mixed, 1), x.shape[1:], norm="forward") + weights[f"{name}.bias"]
        h = after(h + linear(f"fno_blocks.fno_skips.{i}.conv", x))
        gate = weights[f"fno_blocks.channel_mlp_skips.{i}.weight"][0]
        x = after(mlp(f"fno_blocks.channel_mlp.{i}", h) + gate * x)
    return mlp("projection", x)


@pytest.mark.parametrize("kept", [(4, 3), (3, 2)], ids=["even", "odd"])
def test_it_is_the_function_of_their_formulas(kept):
    weights = state_dict(kept)
    op = read_neuraloperator(weights)
    u = np.random.default_rng(1).normal(size=(2, 8, 7))
    made = jax.jit(lambda u: op(u, Grid((8, 7))))(u)
    wanted = formulas(weights, u)
    np.testing.assert_allclose(made, wanted, atol=1e-12 * np.abs(wanted).max())


def test_sizes_and_precision_are_those_of_the_arrays(tmp_path):
    weights = state_dict(kept=(5,), dtype=np.float32)
    safetensors.numpy.save_file(weights, tmp_path / "fno.safetensors")
    op = read_neuraloperator(tmp_path / "fno.safetensors", {"positional_embedding": None})
    assert (op.in_channels, op.modes, op.coordinates, len(op.blocks)) == (3, (5,), False, 2)
    assert {a.dtype for a in jax.tree.leaves(op)} == {jnp.dtype("float32")}
    numbers = sum(a.size * (1 + np.iscomplexobj(a)) for a in weights.values())
    assert sum(a.size for a in jax.tree.leaves(op)) == numbers


@pytest.mark.plain
def test_what_our_fno_cannot_be_is_refused_by_name(tmp_path):
    weights = state_dict()
    for options, told in (
        ({"preactivation": True}, "`options` has preactivation=True; our FNO has only False"),
        ({"norm": "group_norm"}, "`options` has norm='group_norm'"),
        ({"non_linearity": jnp.tanh}, "`options` has non_linearity="),
        ({"n_modes": (2, 4)}, r"`options` has n_modes=\(2, 4\), the weights are for \(4, 3\)"),
    ):
        with pytest.raises(ValueError, match=told):
            read_neuraloperator(weights, options)
        with pytest.raises(ValueError, match=told):
            read_neuraloperator(weights | {"_metadata": options})
    without = {name: a for name, a in weights.items() if "fno_skips" not in name}
    with pytest.raises(ValueError, match=r"`weights` shows no fno_skips.*give fno_skip='identity'"):
        read_neuraloperator(without)
    assert read_neuraloperator(without, {"fno_skip": "identity"}).blocks[0].spectral_skip is not None
    with pytest.raises(ValueError, match=r"has \['fno_blocks.norm.0.weight'\]; expected the `state_dict`"):
        read_neuraloperator(weights | {"fno_blocks.norm.0.weight": np.ones(4)})
    with pytest.raises(ValueError, match=r"`weights` lacks \['lifting.fcs.0.bias'\]"):
        read_neuraloperator({name: a for name, a in weights.items() if name != "lifting.fcs.0.bias"})
    name = "fno_blocks.convs.1.weight.tensor"
    with pytest.raises(ValueError, match=r"`weights` has fno_blocks\.convs\.1\.weight\.tensor of shape"):
        read_neuraloperator(weights | {name: weights[name][:3]})
    separable = {n: a[0] if n.endswith("tensor") else a for n, a in weights.items()}
    with pytest.raises(ValueError, match="ours are not `separable`"):
        read_neuraloperator(separable)
    (tmp_path / "fno.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"fno\.safetensors is no safetensors file, or a truncated one"):
        read_neuraloperator(tmp_path / "fno.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modes", "points", "options"),
    [
        ((6,), (16,), {}),
        ((5,), (15,), {"fno_skip": "soft-gating", "channel_mlp_skip": "linear"}),
        ((6, 5), (12, 11), {"positional_embedding": None, "fno_skip": "identity"}),
        ((5, 6), (20, 10), {"domain_padding": [0.1, 0.2], "hidden_channels": 7, "channel_mlp_expansion": 0.4}),
        ((4, 3, 4), (8, 6, 7), {"n_layers": 2}),
    ],
    ids=["1-D", "1-D skips", "2-D", "2-D padded", "3-D"],
)
def test_it_matches_neuraloperator_itself(modes, points, options, tmp_path):
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("neuralop.models")
    torch.manual_seed(0)
    peer = models.FNO(**{"n_modes": modes, "in_channels": 2, "out_channels": 3, "hidden_channels": 8} | options)
    torch.save(peer.state_dict(), tmp_path / "fno.pt")
    u = np.random.default_rng(0).normal(size=(2, *points)).astype(np.float32)
    with torch.no_grad():
        wanted = peer(torch.from_numpy(u)[None])[0].numpy()
    for weights in (peer.state_dict(), tmp_path / "fno.pt"):
        op = read_neuraloperator(weights)
        made = jax.jit(lambda u, op=op: op(u, Grid(points)))(u)
        np.testing.assert_allclose(made, wanted, atol=1e-5)
