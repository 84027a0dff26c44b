import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vagitus.tensor_train.matrix import (
    TTMatrix,
    contract,
    effective_rank,
    glorot_cores,
    rebuild,
    shape_of,
    tt_round,
    tt_svd,
)
from vagitus.tensor_train.shape import (
    MAX_FACTOR_RATIO,
    Factoring,
    Layout,
    TTShape,
    balanced_factors,
    gated_shape,
    kernel_shape,
    tt_shape,
)

LAYOUTS: tuple[Layout, ...] = ("joint", "per_gate", "gate_first", "gate_last")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def random_cores(*sizes: tuple[int, int, int, int]) -> list[torch.Tensor]:
    return [torch.randn(size, dtype=torch.float64) for size in sizes]


def matrix_by_definition(cores: list[torch.Tensor]) -> np.ndarray:
    """W[i, j] = G_1[:, i_1, j_1, :] · … · G_d[:, i_d, j_d, :], one entry at a time."""
    arrays = [core.detach().numpy() for core in cores]
    outs, ins = [a.shape[1] for a in arrays], [a.shape[2] for a in arrays]
    w = np.empty((math.prod(outs), math.prod(ins)))
    for row, i in enumerate(itertools.product(*map(range, outs))):
        for column, j in enumerate(itertools.product(*map(range, ins))):
            product = np.eye(1)
            for a, own_i, own_j in zip(arrays, i, j, strict=True):
                product = product @ a[:, own_i, own_j, :]
            w[row, column] = product[0, 0]
    return w


# shapes


@pytest.mark.parametrize(
    "size, n_factors, factors",
    [
        (40, 3, (2, 4, 5)),
        (768, 3, (8, 8, 12)),  # 6·8·16 has a larger sum
        (3072, 4, (6, 8, 8, 8)),
        (256, 1, (256,)),
        (28, 3, (2, 2, 7)),  # 7/2 is within the ratio
        (28, 4, (2, 2, 2, 4)),  # only three prime factors: padded to 32, not 1·2·2·7
        (26, 2, (3, 9)),  # 2·13 is too far apart: padded to 27
        (257, 3, (4, 5, 13)),  # a prime: padded to 260
        (5, 3, (1, 2, 3)),  # below 2³ one core gets a 1; 5 is padded to 6
        (1, 3, (1, 1, 1)),
    ],
)
def test_balanced_factors_by_hand(size: int, n_factors: int, factors: tuple[int, ...]) -> None:
    assert balanced_factors(size, n_factors) == factors


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5000), st.integers(1, 4))
def test_balanced_factors_ascend_near_each_other_and_reach_the_size(size: int, n_factors: int) -> None:
    factors = balanced_factors(size, n_factors)
    assert len(factors) == n_factors and list(factors) == sorted(factors)
    assert size <= math.prod(factors) <= 2 * size
    if size >= 2**n_factors and n_factors > 1:
        assert factors[0] > 1 and factors[-1] <= MAX_FACTOR_RATIO * factors[0]
    assert math.prod(balanced_factors(size, n_factors, pad=False)) == size


def test_input_factors_descend_output_factors_ascend_and_the_thesis_ascends_both() -> None:
    shape = tt_shape(3072, 40)
    assert (shape.out_factors, shape.in_factors) == ((12, 16, 16), (5, 4, 2))
    thesis = tt_shape(3072, 40, factoring="thesis")
    assert (thesis.out_factors, thesis.in_factors) == ((12, 16, 16), (2, 4, 5))


def test_the_default_order_of_factors_takes_fewest_operations_of_all_orders() -> None:
    shape = tt_shape(48, 60, rank=3)
    orders = [
        TTShape(48, 60, out, into, (3, 3)).contraction_flops
        for out in itertools.permutations(shape.out_factors)
        for into in itertools.permutations(shape.in_factors)
    ]
    assert shape.contraction_flops == min(orders) < max(orders)


def test_counts_by_hand() -> None:
    shape = TTShape(24, 30, (4, 6), (5, 6), (3,))
    assert shape.n_parameters == 1 * 4 * 5 * 3 + 3 * 6 * 6 * 1
    # core 1: (4·3, 1·5) on 6 columns; core 2: 4 times (6, 3·6) on 1 column; a multiplication and an addition
    assert shape.contraction_flops == 2 * (12 * 5 * 6 + 4 * 6 * 18)
    assert shape.dense_flops == 2 * 24 * 30
    assert shape.max_ranks == (20,)


def test_padding_and_clamping_are_said() -> None:
    shape = tt_shape(257, 28, n_cores=4, rank=50)
    assert math.prod(shape.out_factors) > 257 and math.prod(shape.in_factors) == 32
    assert any("input 28 padded to 32" in note for note in shape.notes)
    assert any("rank 50 clamped" in note for note in shape.notes)
    assert all(r <= most for r, most in zip(shape.ranks, shape.max_ranks, strict=True))
    assert "padded" in str(shape) and "clamped" in str(TTMatrix(shape))


def test_thesis_factoring_keeps_ones_and_ranks_beyond_use() -> None:
    shape = tt_shape(1024, 28, n_cores=4, rank=10, factoring="thesis")
    assert shape.in_factors == (1, 2, 2, 7) and shape.ranks == (10, 10, 10) and not shape.notes


def test_least_flops_is_cheaper_than_balanced_and_caps_the_rank() -> None:
    cheap, balanced = tt_shape(1024, 256, factoring="least_flops"), tt_shape(1024, 256)
    assert cheap.contraction_flops < balanced.contraction_flops / 4
    assert cheap.matrix_rank_bound < 256 == balanced.matrix_rank_bound


def test_low_rank_is_two_cores_whatever_n_cores_says() -> None:
    shape = tt_shape(24, 35, n_cores=4, rank=5, factoring="low_rank")
    assert shape.core_shapes == ((1, 1, 35, 5), (5, 24, 1, 1))
    assert shape.n_parameters == 5 * (24 + 35) and shape.contraction_flops == 2 * 5 * (24 + 35)
    assert shape.matrix_rank_bound == 5
    clamped = tt_shape(24, 35, rank=99, factoring="low_rank")
    assert clamped.ranks == clamped.max_ranks == (24,) and clamped.notes == ("rank 99 clamped to (24,)",)


@pytest.mark.parametrize(
    "outs, ins, ranks",
    [
        ((2, 3, 4), (4, 3, 2), (1, 1)),
        ((2, 2, 8), (8, 2, 2), (2, 2)),
        ((2, 2, 12), (12, 2, 2), (3, 2)),
        ((6, 4), (3, 5), (2,)),
    ],
)
def test_matrix_rank_bound_is_the_rank_of_a_random_matrix_and_a_brute_force_cut(
    outs: tuple[int, ...], ins: tuple[int, ...], ranks: tuple[int, ...]
) -> None:
    shape = TTShape(math.prod(outs), math.prod(ins), outs, ins, ranks)
    cuts = []
    for sides in itertools.product((0, 1), repeat=len(outs)):
        cut = math.prod(m if side else n for side, m, n in zip(sides, outs, ins, strict=True))
        cut *= math.prod(r for r, a, b in zip(ranks, sides, sides[1:], strict=False) if a != b)
        cuts.append(cut)
    assert shape.matrix_rank_bound == min(cuts)
    w = rebuild(random_cores(*shape.core_shapes))
    assert torch.linalg.matrix_rank(w) == shape.matrix_rank_bound


def test_kernel_shape_puts_kernel_positions_last() -> None:
    shape = kernel_shape(12, 8, 9)
    assert (shape.out_factors[-1], shape.in_factors[-1]) == (1, 9)
    assert (shape.n_out, shape.n_in) == (12, 72)
    assert kernel_shape(12, 8, 1) == tt_shape(12, 8)


def test_a_kernel_of_low_rank_is_the_matrix_of_outputs_by_inputs_and_positions() -> None:
    shape = kernel_shape(12, 8, 9, rank=3, factoring="low_rank")
    assert shape.core_shapes == ((1, 1, 72, 3), (3, 12, 1, 1))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n_out": 24, "n_in": 30, "out_factors": (4, 5), "in_factors": (5, 6)}, r"\(4, 5\).*20.*size is 24"),
        ({"n_out": 24, "n_in": 30, "out_factors": (4, 6), "in_factors": (5, 7)}, r"\(5, 7\).*35.*size is 30"),
        ({"n_out": 24, "n_in": 30, "out_factors": (4, 6), "in_factors": (5, 3, 2)}, "differ in number"),
        ({"n_out": 24, "n_in": 30, "rank": 0}, "rank must be 1 or more, got 0"),
        ({"n_out": 24, "n_in": 30, "rank": 0, "n_cores": 1}, "rank must be 1 or more, got 0"),
        ({"n_out": 24, "n_in": 30, "rank": (2, -1)}, r"rank must be 1 or more, got \(2, -1\)"),
        ({"n_out": 24, "n_in": 30, "rank": (2,)}, r"3 cores have 2 ranks between them, got \(2,\)"),
        ({"n_out": 24, "n_in": 30, "rank": (99, 2)}, r"\(99, 2\) are above the possible maximum"),
        ({"n_out": 0, "n_in": 30}, r"got \(0, 30\)"),
        ({"n_out": 24, "n_in": 30, "n_cores": 0}, "n_cores must be 1 or more, got 0"),
        ({"n_out": 24, "n_in": 30, "factoring": "best"}, "thesis, least_flops, low_rank, got 'best'"),
    ],
)
def test_bad_shapes_say_what_was_wrong(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tt_shape(**arguments)  # type: ignore[arg-type]


def test_bad_tt_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiply out to \(20, 30\), less than the matrix \(24, 30\)"):
        TTShape(24, 30, (4, 5), (5, 6), (2,))
    with pytest.raises(ValueError, match="d - 1 ranks"):
        TTShape(24, 30, (4, 6), (5, 6), (2, 2))
    with pytest.raises(ValueError, match="sizes and factors must be 1 or more"):
        TTShape(24, 30, (-4, -6), (5, 6), (2,))
    with pytest.raises(ValueError, match=r"do not divide into 5 gates"):
        TTMatrix(tt_shape(24, 30), n_gates=5)
    with pytest.raises(ValueError, match="layout must be one of joint, per_gate, gate_first, gate_last"):
        gated_shape(6, 5, 3, layout="stacked")  # type: ignore[arg-type]


# rebuilding and contraction


SHAPES = [
    ((1, 3, 4, 2), (2, 5, 3, 3), (3, 2, 4, 1)),  # narrow: the identity is contracted
    ((1, 2, 16, 12), (12, 3, 16, 5), (5, 2, 4, 1)),  # wide: merged
    ((1, 4, 3, 7), (7, 5, 2, 1)),
    ((1, 2, 3, 2), (2, 3, 2, 4), (4, 2, 5, 3), (3, 2, 2, 1)),
    ((1, 6, 5, 1),),
    ((1, 1, 5, 3), (3, 7, 1, 1)),  # low rank: one product
]


@pytest.mark.parametrize("sizes", SHAPES)
def test_rebuild_equals_the_definition(sizes: tuple[tuple[int, int, int, int], ...]) -> None:
    cores = random_cores(*sizes)
    np.testing.assert_allclose(rebuild(cores).numpy(), matrix_by_definition(cores), atol=1e-12)


@pytest.mark.parametrize("n_columns", [1, 7])
@pytest.mark.parametrize("sizes", SHAPES)
def test_contract_equals_the_rebuilt_product(
    sizes: tuple[tuple[int, int, int, int], ...], n_columns: int
) -> None:
    cores = random_cores(*sizes)
    x = torch.randn(math.prod(s[2] for s in sizes), n_columns, dtype=torch.float64)
    torch.testing.assert_close(contract(cores, x), rebuild(cores) @ x)


@pytest.mark.parametrize("sizes", [SHAPES[0], SHAPES[2], SHAPES[5]])
def test_gradients_of_rebuild_and_contract(sizes: tuple[tuple[int, int, int, int], ...]) -> None:
    cores = [core.requires_grad_() for core in random_cores(*sizes)]
    n_in = math.prod(size[2] for size in sizes)
    x = torch.randn(n_in, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *c: rebuild(c), cores)
    assert torch.autograd.gradcheck(lambda x, *c: contract(c, x), [x, *cores])


def test_contract_refuses_rows_that_are_not_its_own() -> None:
    with pytest.raises(ValueError, match=r"x must be \(24, n_columns\) for these cores, got \(25, 3\)"):
        contract(random_cores((1, 3, 4, 2), (2, 5, 6, 1)), torch.zeros(25, 3))
    with pytest.raises(ValueError, match=r"x must be \(30, n_columns\) for this matrix, got \(4, 30\)"):
        TTMatrix(tt_shape(24, 30))(torch.zeros(4, 30))


# initialisation


@pytest.mark.parametrize(
    "shape",
    [
        tt_shape(96, 40, n_cores=2, rank=3),
        tt_shape(96, 40, n_cores=3, rank=1),
        tt_shape(96, 40, n_cores=3, rank=4),
        tt_shape(97, 41, n_cores=4, rank=(2, 5, 3)),  # padded: its variance is that of 97 x 41
    ],
)
def test_rebuilt_entries_have_glorot_variance(shape: TTShape) -> None:
    draws = torch.stack([TTMatrix(shape).dense().detach() for _ in range(400)])
    expected = 2 / (shape.n_in + shape.n_out)
    # Entries of one draw hang together; the standard error over 400 draws is below 3 % at these shapes.
    assert draws.square().mean().item() == pytest.approx(expected, rel=0.09)
    assert abs(draws.mean().item()) < 0.05 * math.sqrt(expected)
    by_entry = draws.square().mean(0)  # no entry stands out: every core entry has the same variance
    assert by_entry.max() < 5 * expected and by_entry.min() > expected / 5


def test_core_standard_deviation_by_the_formula() -> None:
    shape = TTShape(256, 144, (16, 16), (12, 12), (9,))
    cores = glorot_cores(shape, generator=torch.Generator().manual_seed(1))
    expected = (2 / 400) ** (1 / 4) * 9 ** (-1 / 4)
    assert torch.cat([core.flatten() for core in cores]).std().item() == pytest.approx(expected, rel=0.05)
    again = glorot_cores(shape, generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(cores, again, strict=True))
    with pytest.raises(ValueError, match="variance must be > 0, got 0"):
        glorot_cores(shape, variance=0)


# TT-SVD and rounding


@pytest.mark.parametrize("size, outs, ins", [((24, 30), (4, 6), (6, 5)), ((23, 29), (2, 3, 4), (5, 3, 2))])
def test_tt_svd_at_full_rank_is_exact(
    size: tuple[int, int], outs: tuple[int, ...], ins: tuple[int, ...]
) -> None:
    w = torch.randn(size, dtype=torch.float64)
    cores = tt_svd(w, out_factors=outs, in_factors=ins)
    torch.testing.assert_close(rebuild(cores)[: size[0], : size[1]], w)
    assert shape_of(cores).ranks == TTShape(*size, outs, ins, (1,) * (len(outs) - 1)).max_ranks


@pytest.mark.parametrize("tolerance", [0.01, 0.3, 0.7])
def test_tt_svd_keeps_the_error_bound_without_wasting_rank(tolerance: float) -> None:
    w = torch.randn(24, 60, dtype=torch.float64) @ torch.diag(0.8 ** torch.arange(60.0).double())
    outs, ins = (2, 3, 4), (5, 4, 3)
    cores = tt_svd(w, out_factors=outs, in_factors=ins, tolerance=tolerance)
    assert (rebuild(cores) - w).norm() <= tolerance * w.norm()
    ranks = shape_of(cores).ranks
    for bond in range(2):  # one rank less anywhere breaks what that bond was allowed
        fewer = [r - (k == bond) for k, r in enumerate(ranks)]
        if min(fewer) > 0:
            error = (rebuild(tt_svd(w, out_factors=outs, in_factors=ins, rank=fewer)) - w).norm()
            assert error > tolerance * w.norm() / math.sqrt(2)


def test_tt_svd_finds_the_ranks_of_a_tt_matrix() -> None:
    w = rebuild(random_cores((1, 4, 3, 2), (2, 3, 5, 3), (3, 2, 4, 1)))
    found = tt_svd(w, out_factors=(4, 3, 2), in_factors=(3, 5, 4), tolerance=1e-10)
    assert shape_of(found).ranks == (2, 3)
    torch.testing.assert_close(rebuild(found), w)


def test_tt_svd_rank_one_of_a_kronecker_product() -> None:
    a, b = torch.randn(3, 4), torch.randn(5, 2)
    cores = tt_svd(torch.kron(a, b), out_factors=(3, 5), in_factors=(4, 2), rank=1)
    torch.testing.assert_close(rebuild(cores), torch.kron(a, b))
    norms = [core.norm().item() for core in cores]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)  # the norm is spread evenly
    assert cores[0].dtype == torch.float32


def test_tt_svd_of_low_rank_is_the_truncated_svd() -> None:
    w = torch.randn(11, 17, dtype=torch.float64)
    u, s, vt = np.linalg.svd(w.numpy())
    matrix = TTMatrix(tt_shape(11, 17, factoring="low_rank")).double()
    for rank in (1, 3, 11):
        matrix.set_dense(w, rank=rank)
        np.testing.assert_allclose(
            matrix.dense().detach().numpy(), u[:, :rank] * s[:rank] @ vt[:rank], atol=1e-12
        )
        assert matrix.ranks == (rank,) and matrix.counts.cores == rank * (11 + 17)


def test_tt_svd_of_zeros_is_zeros_of_rank_one() -> None:
    cores = tt_svd(torch.zeros(6, 6), out_factors=(2, 3), in_factors=(3, 2))
    assert shape_of(cores).ranks == (1,) and not rebuild(cores).any()


def test_rounding_undoes_a_redundant_sum() -> None:
    cores = random_cores((1, 4, 3, 2), (2, 3, 5, 3), (3, 2, 4, 1))
    doubled = [  # W + W as block-diagonal cores: ranks twice as large as need be
        torch.cat([cores[0], cores[0]], dim=3),
        torch.cat(
            [
                torch.cat([cores[1], torch.zeros_like(cores[1])], dim=3),
                torch.cat([torch.zeros_like(cores[1]), cores[1]], dim=3),
            ]
        ),
        torch.cat([cores[2], cores[2]]),
    ]
    rounded = tt_round(doubled, tolerance=1e-10)
    assert shape_of(rounded).ranks == (2, 3)
    torch.testing.assert_close(rebuild(rounded), 2 * rebuild(cores))


@pytest.mark.parametrize("tolerance", [0.2, 0.6])
def test_rounding_equals_the_tt_svd_of_the_rebuilt_matrix(tolerance: float) -> None:
    cores = random_cores((1, 4, 3, 8), (8, 3, 5, 6), (6, 2, 4, 1))
    w = rebuild(cores)
    rounded = tt_round(cores, tolerance=tolerance)
    direct = tt_svd(w, out_factors=(4, 3, 2), in_factors=(3, 5, 4), tolerance=tolerance)
    assert shape_of(rounded).ranks == shape_of(direct).ranks
    torch.testing.assert_close(rebuild(rounded), rebuild(direct))
    assert (rebuild(rounded) - w).norm() <= tolerance * w.norm()
    assert shape_of(tt_round(cores, rank=2)).ranks == (2, 2)


@pytest.mark.parametrize("tolerance", [-0.1, 1.0])
def test_tolerance_is_a_relative_error(tolerance: float) -> None:
    with pytest.raises(ValueError, match=r"tolerance is a relative error in \[0, 1\)"):
        tt_svd(torch.ones(4, 4), out_factors=(2, 2), in_factors=(2, 2), tolerance=tolerance)


def test_bad_matrices_and_cores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"takes a matrix \(n_out, n_in\), got \(4,\)"):
        tt_svd(torch.ones(4), out_factors=(2, 2), in_factors=(2, 2))
    with pytest.raises(ValueError, match=r"\(4, 4\), less than the matrix \(5, 4\)"):
        tt_svd(torch.ones(5, 4), out_factors=(2, 2), in_factors=(2, 2))
    with pytest.raises(ValueError, match="rank must be 1 or more, got 0"):
        tt_svd(torch.ones(4, 4), out_factors=(2, 2), in_factors=(2, 2), rank=0)
    with pytest.raises(ValueError, match="must share their rank"):
        shape_of(random_cores((1, 2, 2, 3), (2, 2, 2, 1)))
    with pytest.raises(ValueError, match="must be"):
        shape_of([torch.ones(2, 2)])
    with pytest.raises(ValueError, match=r"a weight \(24, 30\), got \(30, 24\)"):
        TTMatrix(tt_shape(24, 30)).set_dense(torch.ones(30, 24))


def test_effective_rank_closed_forms() -> None:
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.outer(torch.arange(1.0, 5), torch.ones(3))) == pytest.approx(1, abs=1e-4)
    p = np.array([0.75, 0.25])  # singular values 3 and 1
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(
        math.exp(-(p * np.log(p)).sum())
    )
    assert math.isnan(effective_rank(torch.zeros(2, 3)))
    with pytest.raises(ValueError, match="that of a matrix"):
        effective_rank(torch.ones(3))


# layouts of gates


@pytest.mark.parametrize("factoring", ["balanced", "thesis", "low_rank"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_out, n_in", [(6, 8), (7, 11)])  # primes: padding inside every gate
def test_every_layout_holds_any_weight_and_contracts_to_its_product(
    layout: Layout, n_out: int, n_in: int, factoring: Factoring
) -> None:
    matrix = TTMatrix(
        gated_shape(n_out, n_in, 3, layout=layout, factoring=factoring), n_gates=3, layout=layout
    )
    matrix.double()
    w = torch.randn(3 * n_out, n_in, dtype=torch.float64)
    matrix.set_dense(w)
    torch.testing.assert_close(matrix.dense(), w)
    x = torch.randn(n_in, 4, dtype=torch.float64)
    torch.testing.assert_close(matrix(x), w @ x)
    assert matrix.counts.total == sum(p.numel() for p in matrix.parameters())
    assert matrix.counts.dense == w.numel()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_by_their_definition(layout: Layout) -> None:
    n_gates, n_out, n_in = 3, 6, 8
    matrix = TTMatrix(
        gated_shape(n_out, n_in, n_gates, layout=layout, rank=2), n_gates=n_gates, layout=layout
    )
    blocks = [matrix_by_definition(block) for block in matrix.blocks()]
    if layout == "per_gate":
        expected = np.concatenate(blocks)
    elif layout == "gate_last":  # the gate is the minor digit of the row
        expected = np.concatenate([blocks[0][gate::n_gates] for gate in range(n_gates)])
    else:  # the gate is the major digit
        expected = blocks[0]
    np.testing.assert_allclose(matrix.dense().detach().numpy(), expected, atol=1e-6)
    expected_cores = {"joint": 3, "per_gate": 9, "gate_first": 4, "gate_last": 4}
    assert len(matrix.cores) == expected_cores[layout]


def test_set_dense_with_a_tolerance_keeps_the_bound_in_every_gate() -> None:
    w = torch.randn(24, 30)
    w[:8] = torch.kron(
        torch.randn(2, 5), torch.randn(4, 6)
    )  # a gate that needs far less rank than the others
    matrix = TTMatrix(gated_shape(8, 30, 3, layout="per_gate", n_cores=2), n_gates=3, layout="per_gate")
    matrix.set_dense(w, tolerance=0.2)
    for own, gate in zip(matrix.dense().split(8), w.split(8), strict=True):  # type: ignore[no-untyped-call]
        assert (own - gate).norm() <= 0.2 * gate.norm()
    assert matrix.ranks == matrix.shape.ranks and len({tuple(c.shape) for c in matrix.cores[::2]}) == 1


def test_resize_makes_room_for_the_cores_of_other_ranks() -> None:
    source = TTMatrix(gated_shape(6, 8, 3, layout="per_gate", rank=(2, 5)), n_gates=3, layout="per_gate")
    matrix = TTMatrix(gated_shape(6, 8, 3, layout="per_gate", rank=1), n_gates=3, layout="per_gate")
    matrix.resize((2, 5))
    matrix.load_state_dict(source.state_dict())
    assert matrix.shape == source.shape and torch.equal(matrix.dense(), source.dense())
    with pytest.raises(ValueError, match=r"\(3, 5\) are above the possible maximum \(2, 6\)"):
        matrix.resize((3, 5))
    with pytest.raises(ValueError, match=r"2 ranks between them, got \(4,\)"):
        matrix.resize((4,))


def test_reset_parameters_draws_from_the_generator() -> None:
    matrix = TTMatrix(tt_shape(24, 30))
    matrix.reset_parameters(torch.Generator().manual_seed(3))
    first = matrix.dense().detach()
    matrix.reset_parameters(torch.Generator().manual_seed(3))
    torch.testing.assert_close(matrix.dense().detach(), first)
