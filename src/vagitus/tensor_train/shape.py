"""The shape of a TT-matrix: how sizes are factored, padded and ranked, what that costs and what it can say.

Conventions
    W            (n_out, n_in), as torch keeps a weight: y = W x
    core k       (r_{k-1}, m_k, n_k, r_k): m_k factors of the output, n_k of the input, r_0 = r_d = 1
    W[i, j]      G_1[:, i_1, j_1, :] · … · G_d[:, i_d, j_d, :], where i = (i_1 … i_d) and j = (j_1 … j_d)
                 are mixed-radix numbers with the first digit the most significant (row-major)
    parameters   Σ r_{k-1} m_k n_k r_k

By default input factors descend and output factors ascend. A contraction goes from core 1 to core d and
holds m_1…m_k · r_k · n_{k+1}…n_d numbers a column after core k: taking the largest input factor first and
giving the smallest output factor first keeps that running tensor, hence the work, small.

A matrix of low rank, W = U V with U (n_out, r) and V (r, n_in), is the TT-matrix of two cores whose first
holds all of the input and whose second all of the output: G_1 = Vᵀ as (1, 1, n_in, r), G_2 = Uᵀ as
(r, n_out, 1, 1). In this order a contraction is V x, then U (V x): 2 r (n_in + n_out) operations.

Sources: Novikov et al. 2015, arXiv:1509.06569 (TT-matrix layers); Onu et al. 2020, arXiv:2010.04196 (the
gates of a recurrent layer in one TT).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, get_args

Factoring = Literal["balanced", "thesis", "least_flops", "low_rank"]
Layout = Literal["joint", "per_gate", "gate_first", "gate_last"]
Ranks = int | Sequence[int]

# A size whose factors are further apart than this is padded: (2, 13) for 26 costs as much as a far larger
# balanced shape. 4 is the smallest bound that keeps 28 = 2·2·7 and 40 = 2·2·2·5, the thesis's own shapes.
MAX_FACTOR_RATIO = 4


@dataclass(frozen=True)
class TTShape:
    """The shape of one TT-matrix: factors, inner ranks, and the size it stands for.

    Products of factors larger than the size are padding: rows and columns that exist in the cores and are
    cut off the matrix. ``notes`` says in words what was padded or clamped.

    Args:
        n_out, n_in: the size of W.
        out_factors, in_factors: m_1…m_d and n_1…n_d; their products reach n_out and n_in at least.
        ranks: r_1…r_{d-1}.

    Raises:
        ValueError: a number below 1, lengths that differ, factors whose product is below the size.
    """

    n_out: int
    n_in: int
    out_factors: tuple[int, ...]
    in_factors: tuple[int, ...]
    ranks: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n_cores = len(self.out_factors)
        if n_cores < 1 or len(self.in_factors) != n_cores or len(self.ranks) != n_cores - 1:
            raise ValueError(
                f"a TT-matrix of d cores has d output factors, d input factors and d - 1 ranks, got "
                f"{self.out_factors}, {self.in_factors} and {self.ranks}"
            )
        if min(self.n_out, self.n_in, *self.out_factors, *self.in_factors) < 1:
            raise ValueError(
                f"sizes and factors must be 1 or more, got ({self.n_out}, {self.n_in}) as "
                f"{self.out_factors} x {self.in_factors}"
            )
        if any(rank < 1 for rank in self.ranks):
            raise ValueError(f"every TT rank must be 1 or more, got {self.ranks}")
        if self.padded_out < self.n_out or self.padded_in < self.n_in:
            raise ValueError(
                f"factors {self.out_factors} x {self.in_factors} multiply out to "
                f"({self.padded_out}, {self.padded_in}), less than the matrix ({self.n_out}, {self.n_in})"
            )

    @property
    def n_cores(self) -> int:
        """d."""
        return len(self.out_factors)

    @property
    def bonds(self) -> tuple[int, ...]:
        """r_0…r_d, the outer ones included."""
        return (1, *self.ranks, 1)

    @property
    def padded_out(self) -> int:
        """∏ m_k, at least ``n_out``."""
        return math.prod(self.out_factors)

    @property
    def padded_in(self) -> int:
        """∏ n_k, at least ``n_in``."""
        return math.prod(self.in_factors)

    @property
    def core_shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        """(r_{k-1}, m_k, n_k, r_k) of every core."""
        return tuple(zip(self.bonds, self.out_factors, self.in_factors, self.bonds[1:], strict=False))

    @property
    def n_parameters(self) -> int:
        """Σ r_{k-1} m_k n_k r_k."""
        return sum(math.prod(shape) for shape in self.core_shapes)

    @property
    def max_ranks(self) -> tuple[int, ...]:
        """The ranks beyond which a core only repeats what another can say, which is also full rank.

        r_k ≤ min(∏_{l≤k} m_l n_l, ∏_{l>k} m_l n_l).
        """
        sizes = [m * n for m, n in zip(self.out_factors, self.in_factors, strict=True)]
        return tuple(min(math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(1, self.n_cores))

    @property
    def matrix_rank_bound(self) -> int:
        """The largest rank that W can have with these cores: the smallest cut between input and output.

        Put every core on the side of the input or of the output. What crosses is the m_k of a core on the
        input's side, the n_k of a core on the output's side, and r_k between neighbours on different sides;
        the product of what crosses bounds the rank of W, for every choice of sides. A shape may be cheap and
        still cap the rank far below min(n_out, n_in).
        """
        cut_in, cut_out = self.out_factors[0], self.in_factors[0]  # smallest cut so far, by the core's side
        for rank, m, n in zip(self.ranks, self.out_factors[1:], self.in_factors[1:], strict=True):
            cut_in, cut_out = m * min(cut_in, cut_out * rank), n * min(cut_out, cut_in * rank)
        return min(cut_in, cut_out, self.n_out, self.n_in)

    @property
    def contraction_flops(self) -> int:
        """Floating-point operations of W x for one column, core by core: 2 Σ m_1…m_k r_k r_{k-1} n_k…n_d."""
        return 2 * sum(
            math.prod(self.out_factors[: k + 1]) * right * left * math.prod(self.in_factors[k:])
            for k, (left, right) in enumerate(pairwise(self.bonds))
        )

    @property
    def dense_flops(self) -> int:
        """Floating-point operations of W x for one column with W at hand: 2 n_out n_in."""
        return 2 * self.n_out * self.n_in

    def __str__(self) -> str:
        out, into = "x".join(map(str, self.out_factors)), "x".join(map(str, self.in_factors))
        noted = f" ({'; '.join(self.notes)})" if self.notes else ""
        return f"{self.n_in}={into} -> {self.n_out}={out}, ranks {self.ranks}{noted}"


def balanced_factors(size: int, n_factors: int, *, pad: bool = True) -> tuple[int, ...]:
    """Ascending factors as near to each other as can be: those of the smallest sum, then the smallest largest.

    With ``pad``, a size that has no such factors within MAX_FACTOR_RATIO of each other and none of them 1
    (a prime, twice a prime, …) is replaced by the next size that has; the caller sees it in the product.
    A size below 2**n_factors cannot give every core a 2: the cores it lacks get a 1 and the rest is as above.
    Without ``pad`` the product is exactly ``size``, with ones where it runs out of prime factors.

    Raises:
        ValueError: ``size`` or ``n_factors`` is below 1.
    """
    if size < 1 or n_factors < 1:
        raise ValueError(f"cannot factor {size} into {n_factors}: both must be 1 or more")
    if not pad:
        return _exact_factors(size, n_factors)
    n_used = min(n_factors, max(size.bit_length() - 1, 1))
    ones = (1,) * (n_factors - n_used)
    if n_used == 1:
        return (*ones, size)
    while True:
        factors = _exact_factors(size, n_used)
        if factors[0] > 1 and factors[-1] <= MAX_FACTOR_RATIO * factors[0]:
            return (*ones, *factors)
        size += 1


def tt_shape(
    n_out: int,
    n_in: int,
    *,
    n_cores: int = 3,
    rank: Ranks = 4,
    factoring: Factoring = "balanced",
    out_factors: Sequence[int] | None = None,
    in_factors: Sequence[int] | None = None,
) -> TTShape:
    """Choose the shape of a TT-matrix.

    Args:
        n_out, n_in: the size of W.
        n_cores: d; taken from the factors where they are given, and 2 for ``low_rank`` whatever it says.
        rank: one number for every bond, clamped to what a bond can use and noted in ``TTShape.notes``; or
            d - 1 numbers, refused where one is above it.
        factoring: ``balanced`` (``balanced_factors``, input descending, output ascending, padded where
            awkward); ``thesis`` (both ascending, never padded, ranks taken as they are even beyond what a
            bond can use: the shapes whose parameters the thesis counts); ``least_flops`` (the factors
            above 1 that make ``contraction_flops`` least, which can cap the rank of W: see
            ``matrix_rank_bound``); ``low_rank`` (two cores, W = U V; the TT-SVD is the truncated SVD).
        out_factors, in_factors: taken as they stand, ones included; they must multiply out exactly.

    Raises:
        ValueError: a size, rank or number of cores below 1; explicit factors that do not multiply out or
            differ in number; an explicit rank above the possible maximum; an unknown ``factoring``.
    """
    check_choice("factoring", factoring, get_args(Factoring))
    if n_out < 1 or n_in < 1:
        raise ValueError(f"a matrix needs sizes of 1 or more, got ({n_out}, {n_in})")
    given = out_factors if out_factors is not None else in_factors
    n_cores = n_cores if given is None else len(given)
    if n_cores < 1:
        raise ValueError(f"n_cores must be 1 or more, got {n_cores}")
    outs: tuple[int, ...]
    ins: tuple[int, ...]
    if factoring == "low_rank" and given is None:
        n_cores, outs, ins = 2, (1, n_out), (n_in, 1)
    elif factoring == "least_flops" and given is None:
        outs, ins = _least_flops_factors(n_out, n_in, n_cores, rank_at_bonds(rank, n_cores))
    else:
        pad = factoring != "thesis"
        outs = balanced_factors(n_out, n_cores, pad=pad)
        ins = balanced_factors(n_in, n_cores, pad=pad)
        ins = ins if factoring == "thesis" else ins[::-1]
    outs = outs if out_factors is None else _explicit_factors("output", out_factors, n_out)
    ins = ins if in_factors is None else _explicit_factors("input", in_factors, n_in)
    if len(outs) != len(ins):
        raise ValueError(f"output factors {outs} and input factors {ins} differ in number")
    notes = [
        f"{side} {size} padded to {math.prod(factors)}"
        for side, size, factors in (("output", n_out, outs), ("input", n_in, ins))
        if math.prod(factors) != size
    ]
    ranks = rank_at_bonds(rank, n_cores)
    shape = TTShape(n_out, n_in, outs, ins, ranks)
    if factoring != "thesis" and any(r > most for r, most in zip(ranks, shape.max_ranks, strict=True)):
        if not isinstance(rank, int):
            raise ValueError(
                f"ranks {ranks} are above the possible maximum {shape.max_ranks} of "
                f"{outs} x {ins}; one number for all bonds would be clamped"
            )
        ranks = tuple(min(r, most) for r, most in zip(ranks, shape.max_ranks, strict=True))
        notes.append(f"rank {rank} clamped to {ranks}")
    return replace(shape, ranks=ranks, notes=tuple(notes))


def gated_shape(
    n_out: int,
    n_in: int,
    n_gates: int,
    *,
    layout: Layout = "joint",
    n_cores: int = 3,
    rank: Ranks = 4,
    factoring: Factoring = "balanced",
) -> TTShape:
    """The shape of each TT of a weight (n_gates · n_out, n_in) in one of ``TTMatrix``'s layouts.

    The gate core of ``gate_first`` and ``gate_last`` comes on top of ``n_cores`` (of the two of ``low_rank``),
    and a list of ranks counts its bond too. Padding of n_out is there in every gate, except in ``joint``,
    which factors all rows.

    Raises:
        ValueError: as ``tt_shape``; an unknown layout; fewer than one gate.
    """
    check_choice("layout", layout, get_args(Layout))
    if n_gates < 1:
        raise ValueError(f"n_gates must be 1 or more, got {n_gates}")
    if layout in ("joint", "per_gate"):
        rows = n_gates * n_out if layout == "joint" else n_out
        return tt_shape(rows, n_in, n_cores=n_cores, rank=rank, factoring=factoring)
    one = tt_shape(n_out, n_in, n_cores=n_cores, rank=1, factoring=factoring)
    return _with_core(
        one,
        n_gates,
        1,
        first=layout == "gate_first",
        rank=rank,
        factoring=factoring,
        n_out=n_gates * n_out,
        n_in=n_in,
    )


def kernel_shape(
    n_out: int,
    n_in: int,
    kernel_size: int,
    *,
    n_cores: int = 3,
    rank: Ranks = 4,
    factoring: Factoring = "balanced",
) -> TTShape:
    """The shape of a convolution's weight (n_out, n_in · kernel_size), kernel positions the minor digit.

    The kernel is an extra last core (r, 1, kernel_size, 1), so that space and channels stay apart; a kernel
    of one position has none. ``low_rank`` factors the matrix as it is: two cores, without one for the kernel.

    Raises:
        ValueError: as ``tt_shape``; a kernel below one position.

    Source: Garipov et al. 2016, arXiv:1611.03214, equation 7 (there the kernel stands first).
    """
    if kernel_size < 1:
        raise ValueError(f"a kernel needs 1 position or more, got {kernel_size}")
    if kernel_size == 1 or factoring == "low_rank":
        return tt_shape(n_out, n_in * kernel_size, n_cores=n_cores, rank=rank, factoring=factoring)
    one = tt_shape(n_out, n_in, n_cores=n_cores, rank=1, factoring=factoring)
    return _with_core(
        one,
        1,
        kernel_size,
        first=False,
        rank=rank,
        factoring=factoring,
        n_out=n_out,
        n_in=n_in * kernel_size,
    )


def by_matrix(rank: Ranks | Mapping[str, Ranks] | None, names: Iterable[str]) -> dict[str, Any]:
    """A rank for every matrix of a layer: those given by name, or the one that is given for all.

    Raises:
        ValueError: the names given are not those of the layer.
    """
    if not isinstance(rank, Mapping):
        return dict.fromkeys(names, rank)
    if set(rank) != set(names):
        raise ValueError(f"ranks must be given for {', '.join(names)}, got {', '.join(rank) or 'none'}")
    return dict(rank)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is not among the choices, naming them.

    Raises:
        ValueError: see above.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _with_core(
    one: TTShape, m: int, n: int, *, first: bool, rank: Ranks, factoring: Factoring, n_out: int, n_in: int
) -> TTShape:
    outs, ins = one.out_factors, one.in_factors
    outs, ins = ((m, *outs), (n, *ins)) if first else ((*outs, m), (*ins, n))
    # As factors of the padded sizes the product is exact; what is padding is known from ``one``.
    padded = tt_shape(
        math.prod(outs), math.prod(ins), rank=rank, factoring=factoring, out_factors=outs, in_factors=ins
    )
    return replace(padded, n_out=n_out, n_in=n_in, notes=(*one.notes, *padded.notes))


@lru_cache(maxsize=4096)
def _exact_factors(size: int, n_factors: int) -> tuple[int, ...]:
    return min(_ascending_factors(size, n_factors), key=lambda factors: (sum(factors), factors[-1]))


def _ascending_factors(size: int, n_factors: int, smallest: int = 1) -> Iterator[tuple[int, ...]]:
    if n_factors == 1:
        yield (size,)
        return
    factor = smallest
    while factor**n_factors <= size:
        if size % factor == 0:
            for rest in _ascending_factors(size // factor, n_factors - 1, factor):
                yield (factor, *rest)
        factor += 1


def _ordered_factors(size: int, n_factors: int) -> Iterator[tuple[int, ...]]:
    if n_factors == 1:
        yield (size,)
        return
    for factor in range(1, size + 1):
        if size % factor == 0:
            for rest in _ordered_factors(size // factor, n_factors - 1):
                yield (factor, *rest)


@lru_cache(maxsize=256)
def _least_flops_factors(
    n_out: int, n_in: int, n_cores: int, ranks: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Factors of the (padded) sizes with the fewest operations; all above 1 if the sizes have so many."""
    outs, ins = (_true_factors(math.prod(balanced_factors(n, n_cores)), n_cores) for n in (n_out, n_in))
    shapes = (TTShape(n_out, n_in, out, into, ranks) for out in outs for into in ins)
    best = min(shapes, key=lambda shape: (shape.contraction_flops, -shape.matrix_rank_bound))
    return best.out_factors, best.in_factors


def _true_factors(size: int, n_factors: int) -> list[tuple[int, ...]]:
    factors = list(_ordered_factors(size, n_factors))
    return [f for f in factors if min(f) > 1] or factors


def _explicit_factors(side: str, factors: Sequence[int], size: int) -> tuple[int, ...]:
    if math.prod(factors) != size or min(factors, default=0) < 1:
        raise ValueError(
            f"{side} factors {tuple(factors)} multiply out to {math.prod(factors)}, but the size is {size}; "
            f"left out, factors are chosen and the size padded where needed"
        )
    return tuple(factors)


def rank_at_bonds(rank: Ranks, n_cores: int) -> tuple[int, ...]:
    ranks = (rank,) * (n_cores - 1) if isinstance(rank, int) else tuple(rank)
    if len(ranks) != n_cores - 1:
        raise ValueError(f"{n_cores} cores have {n_cores - 1} ranks between them, got {ranks}")
    if min(ranks, default=1) < 1 or (isinstance(rank, int) and rank < 1):
        raise ValueError(f"every TT rank must be 1 or more, got {rank}")
    return ranks
