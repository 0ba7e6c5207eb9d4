"""Feature maps: what their papers claim of them."""

import pytest
import torch

from bareformers import registry
from bareformers.errors import InputError
from bareformers.mixers import feature_maps
from tests.laws.cases import close, noise
from tests.reference.equations import FEATURES


def made(name, size, **options):
    """A feature map for heads of `size`, drawn and in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        feature_map = feature_maps.build({"name": name, **options}, size, "a test")
        feature_map.init_weights(1.0)
    return feature_map.double()


@pytest.mark.parametrize("name", registry.feature_maps.names())
@pytest.mark.parametrize("size", [2, 8])
def test_every_feature_map_is_what_its_paper_says(name, size):
    feature_map, x = made(name, size), noise(5, 3, size, seed=0).double()
    found = feature_map(x)
    assert found.shape == (5, 3, feature_map.size)
    close(found, FEATURES[name](feature_map, x), 1e-12)
    assert bool((found >= 0).all()) == feature_map.positive


@pytest.mark.parametrize("name", registry.feature_maps.names())
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_up_to_scale_is_up_to_scale(name, scale):
    feature_map, x = made(name, 8), scale * noise(40, 8, seed=1).double()
    short = feature_map.up_to_scale(x)
    assert short.isfinite().all()
    if name == "favor":
        close(short.amax(-1), torch.ones(40), 1e-12)  # however long a query, it reads
    if scale == 1.0:
        whole = feature_map(x)
        close(short / short.norm(dim=-1, keepdim=True), whole / whole.norm(dim=-1, keepdim=True), 1e-12)


def test_directions_are_orthogonal_and_as_long_as_normal_vectors():
    blocks = made("favor", 8, num_directions=512).directions.view(64, 8, 8)
    products = blocks @ blocks.transpose(-1, -2)
    squares = products.diagonal(0, -2, -1)
    close(products, squares.diag_embed(), 1e-5)
    assert 7 < squares.mean() < 9, "a normal vector of 8 entries has the squared length 8 on average"
    assert 3 < squares.std() < 5, "and its standard deviation is 4"


@pytest.mark.parametrize("size, directions", [(64, 266), (8, 16), (2, 1)])
def test_directions_are_d_ln_d(size, directions):
    assert made("favor", size).directions.shape == (directions, size)


def test_products_estimate_the_softmax_kernel():
    queries, keys = 0.5 * noise(2, 64, 8, seed=2).double()
    exact = ((queries * keys).sum(-1) / 8**0.5).exp()
    errors = []
    for num_directions in (16, 256, 4096):
        phi = made("favor", 8, num_directions=num_directions)
        error = (phi(queries) * phi(keys)).sum(-1) / exact - 1
        errors.append(error.abs().mean())
    assert errors[2] < errors[1] / 2 and errors[1] < errors[0]
    assert errors[2] < 0.03 and abs(error.mean()) < 0.02


def test_dpfp_sends_each_quadrant_to_an_axis_of_its_own():
    """Schlag et al. 2021, equations 33 to 36: one feature of four, and no overlap between quadrants."""
    features = made("dpfp", 2)(torch.tensor([[1.0, 2.0], [-1.0, 2.0], [1.0, -2.0], [-1.0, -2.0]]).double())
    assert features.max(-1).values.tolist() == [2.0] * 4
    assert torch.equal(features @ features.T, 4 * torch.eye(4).double())


@pytest.mark.parametrize("nu", [1, 3])
def test_dpfp_is_sparse(nu):
    features = made("dpfp", 8, nu=nu)(noise(100, 8, seed=3).double())
    filled = (features > 0).sum(-1)
    assert filled.min() > 0 and filled.max() <= 8 * nu, "half of the features at most"
    assert abs(filled.double().mean() / (16 * nu) - 0.25) < 0.05, "a quarter on average, both signs having to fit"


@pytest.mark.parametrize(
    "spec, size, words",
    [
        ("dpfp", 3, "dpfp needs an even head size, not 3"),
        ({"name": "dpfp", "nu": 0}, 8, "nu is at least 1"),
        ({"name": "favor", "num_directions": 0}, 8, "num_directions is at least 1"),
        ({"name": "dpfp", "mu": 2}, 8, "no option 'mu'; did you mean 'nu'"),
        ("dpfpp", 8, "unknown feature map 'dpfpp'; did you mean 'dpfp'.* known are dpfp, elu, favor, identity"),
    ],
    ids=str,
)
def test_a_feature_map_that_cannot_be(spec, size, words):
    with pytest.raises(InputError, match=words):
        feature_maps.build(spec, size, "a test")
