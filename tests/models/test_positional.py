import math
from typing import Any

import pytest
import torch

from attnlab.errors import UserError
from attnlab.models.positional import ALiBi, Learned, PositionalEncoding, Rotary, Sinusoidal


@pytest.mark.parametrize("embed_dim", [1, 7, 8])
def test_sinusoidal_is_the_papers_formula_at_any_width(embed_dim: int) -> None:
    encoding = Sinusoidal(embed_dim, num_heads=1, max_length=20)
    added = encoding.embed(torch.zeros(2, 15, embed_dim))
    assert added.shape == (2, 15, embed_dim)
    for position, i in ((0, 0), (3, 0), (14, embed_dim - 1)):
        angle = position / 10_000 ** (2 * (i // 2) / embed_dim)
        expected = math.sin(angle) if i % 2 == 0 else math.cos(angle)
        assert added[1, position, i].item() == pytest.approx(expected, abs=1e-5)


def test_learned_has_a_row_for_each_position() -> None:
    encoding = Learned(8, num_heads=1, max_length=20)
    assert [tuple(parameter.shape) for parameter in encoding.parameters()] == [(20, 8)]
    assert torch.equal(encoding.embed(torch.zeros(1, 20, 8))[0], encoding.table)


def test_learned_may_end_early_and_then_adds_nothing() -> None:
    encoding = Learned(8, num_heads=1, max_length=20, max_len=5, beyond="zero")
    added = encoding.embed(torch.zeros(1, 20, 8))[0]
    assert torch.equal(added[:5], encoding.table) and encoding.table.shape == (5, 8) and not added[5:].any()
    assert torch.equal(encoding.embed(torch.zeros(1, 3, 8))[0], encoding.table[:3])
    assert Learned(8, 1, max_length=20, max_len=50).table.shape == (20, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_len": 5}, "pe.max_len=5 has no vector for every token of documents of up to 20: use pe.max_len=null"),
        ({"max_len": 0, "beyond": "zero"}, "pe.max_len=0"),
        ({"beyond": "foo"}, "pe.beyond=foo is unknown; choose error or zero"),
    ],
)
def test_a_table_that_is_too_short_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Learned(8, num_heads=1, max_length=20, **arguments)


@pytest.mark.parametrize("head_width", [2, 5, 8])
def test_rotary_scores_depend_on_distance_alone(head_width: int) -> None:
    torch.manual_seed(0)
    encoding = Rotary(2 * head_width, num_heads=2, max_length=30)
    q, k = torch.randn(2, 1, 2, 1, head_width).expand(-1, -1, -1, 30, -1)
    q, k = encoding.rotate(q), encoding.rotate(k)
    scores = q @ k.transpose(-1, -2)
    for distance in (-7, 0, 3):
        diagonal = scores.diagonal(distance, dim1=-2, dim2=-1)
        torch.testing.assert_close(diagonal, diagonal[..., :1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(q.norm(dim=-1), q[..., :1, :].norm(dim=-1).expand(-1, -1, 30))


@pytest.mark.parametrize(
    ("num_heads", "slopes"),
    [(1, [2**-8]), (2, [2**-4, 2**-8]), (4, [2**-2, 2**-4, 2**-6, 2**-8]), (3, [2**-4, 2**-8, 2**-2])],
)
def test_alibi_falls_with_distance_at_the_papers_slopes(num_heads: int, slopes: list[float]) -> None:
    bias = ALiBi(12, num_heads, max_length=10).bias(6)
    assert bias.shape == (num_heads, 6, 6)
    assert bias[:, 0, 1].tolist() == pytest.approx([-slope for slope in slopes])
    assert torch.equal(bias[:, 2, 5], 3 * bias[:, 0, 1]) and torch.equal(bias, bias.transpose(1, 2))


def test_none_changes_nothing() -> None:
    encoding, x = PositionalEncoding(8, 2, 10), torch.randn(1, 2, 5, 4)
    assert encoding.embed(x) is x and encoding.rotate(x) is x and encoding.bias(5) is None
