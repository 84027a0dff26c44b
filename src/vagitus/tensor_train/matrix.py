"""TT-matrices at work: initialisation, rebuilding, contraction, TT-SVD and rounding.

Conventions are those of ``shape``; besides
    cores        [(r_{k-1}, m_k, n_k, r_k), …], the tensors of one TT-matrix
    columns      x (n_in, n_columns): the batch stands last, so that every core is one batched product
                 on views of the running tensor and nothing is ever transposed

Sources: Oseledets 2011, SIAM J. Sci. Comput. 33(5) (TT-SVD, rounding); Onu et al. 2020, arXiv:2010.04196
(initialisation).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from vagitus.tensor_train.shape import Layout, Ranks, TTShape, check_choice, rank_at_bonds

# Multiplications of one product of a batch. Below about this many the call costs more than the work (torch takes a
# slower kernel below 400), and one product with a transposed copy of the result is faster. Measured on a Zen 5.
SMALL_PRODUCT = 600


def glorot_cores(
    shape: TTShape, *, variance: float | None = None, generator: torch.Generator | None = None
) -> list[Tensor]:
    """Gaussian cores whose rebuilt matrix has entries of a given variance, Glorot's unless told otherwise.

    An entry of W is a sum of ∏ r_k products of d independent core entries, so with core variance s its
    variance is s^d ∏ r_k, and

        std of a core entry = λ^{1/(2d)} ∏ r_k^{-1/(2d)},    λ = 2 / (n_in + n_out)

    Padding does not enter λ: what is cut off feeds nothing.

    Args:
        shape: shape of the cores.
        variance: λ, > 0; None for Glorot's.
        generator: chance; None for torch's global one.

    Returns:
        float32 (torch's default dtype) cores, (r_{k-1}, m_k, n_k, r_k) each.

    Raises:
        ValueError: ``variance`` is not positive.

    Source: Onu et al. 2020, arXiv:2010.04196, section 3.
    """
    variance = 2 / (shape.n_in + shape.n_out) if variance is None else variance
    if variance <= 0:
        raise ValueError(f"variance must be > 0, got {variance!r}")
    std = (variance / math.prod(shape.ranks)) ** (1 / (2 * shape.n_cores))
    return [torch.randn(core, generator=generator) * std for core in shape.core_shapes]


def rebuild(cores: Sequence[Tensor]) -> Tensor:
    """The matrix (∏ m_k, ∏ n_k) of the cores, padding included.

    The cores left and right of a bond are merged into L (m_L, n_L, r) and R (r, m_R, n_R), and these into W as
    a batch of products over (m_L, m_R) of L[m_L] (n_L, r) with R[m_R] (r, n_R), which lands in row-major order
    without a transposed copy. The bond is the one that repeats the fewest numbers, r (n_L + n_R) a row of W.
    Two cores of a ``low_rank`` shape are one product, Rᵀ Lᵀ = U V.
    """
    merged = _merge(cores)
    return merged.reshape(merged.shape[1], merged.shape[2])


def contract(cores: Sequence[Tensor], x: Tensor) -> Tensor:
    """W x without W: (∏ n_k, n_columns) -> (∏ m_k, n_columns), padding included.

    Each core is one batched product on views: after core k the running tensor is
    (m_1…m_k, r_k n_{k+1}, n_{k+2}…n_d · n_columns).

    Raises:
        ValueError: x does not have ∏ n_k rows.
    """
    n_rows = math.prod([core.shape[2] for core in cores])
    if x.ndim != 2 or x.shape[0] != n_rows:
        raise ValueError(f"x must be ({n_rows}, n_columns) for these cores, got {tuple(x.shape)}")
    n_columns = x.shape[1]
    n_left, n_right = 1, n_rows * n_columns
    for core in cores:
        rank_left, m, n, _ = core.shape
        n_right //= n
        operator = core_operator(core)
        if n_left == 1:
            x = operator @ x.reshape(rank_left * n, n_right)
        elif n_right == 1:  # a batch of matrix-vector products is one matrix product
            x = x.reshape(n_left, rank_left * n) @ operator.T
        else:
            x = torch.bmm(operator.expand(n_left, -1, -1), x.reshape(n_left, rank_left * n, n_right))
        n_left *= m
    return x.reshape(n_left, n_columns)


def core_operator(core: Tensor) -> Tensor:
    """A core as the matrix (m_k r_k, r_{k-1} n_k) that takes one step of a contraction."""
    rank_left, m, n, rank_right = core.shape
    return core.permute(1, 3, 0, 2).reshape(m * rank_right, rank_left * n)


def tt_svd(
    matrix: Tensor,
    *,
    out_factors: Sequence[int],
    in_factors: Sequence[int],
    rank: Ranks | None = None,
    tolerance: float | None = None,
) -> list[Tensor]:
    """Cores of a dense matrix, by successive truncated SVDs. Neither rank nor tolerance: exact.

    With ``tolerance`` ε every SVD drops singular values of norm at most ε ‖W‖ / √(d - 1), hence
    ‖W - TT‖ ≤ ε ‖W‖ in Frobenius norm. With ``rank`` the error is at most √(d - 1) times that of the best
    approximation of those ranks. The cores leave with equal norms, ready for training.

    Args:
        matrix: (n_out, n_in), zero-padded to the products of the factors.
        out_factors, in_factors: m_k and n_k, products at least (n_out, n_in).
        rank: the most that a bond may keep, one number or d - 1.
        tolerance: relative Frobenius error, in [0, 1).

    Returns:
        Cores of the matrix's dtype and device; the SVDs run in float64.

    Raises:
        ValueError: not a matrix, factors too small for it, rank below 1, tolerance outside [0, 1).

    Source: Oseledets 2011, algorithm 1 and theorem 2.2.
    """
    if matrix.ndim != 2:
        raise ValueError(f"a TT-SVD takes a matrix (n_out, n_in), got {tuple(matrix.shape)}")
    n_out, n_in = matrix.shape
    shape = TTShape(n_out, n_in, tuple(out_factors), tuple(in_factors), (1,) * (len(out_factors) - 1))
    limits = _rank_limits(rank, shape)
    padding = (0, shape.padded_in - shape.n_in, 0, shape.padded_out - shape.n_out)
    full = nn.functional.pad(matrix.detach().double(), padding)
    d = shape.n_cores
    # (m_1 … m_d, n_1 … n_d) -> (m_1 n_1, …, m_d n_d)
    interleaved = full.reshape(*shape.out_factors, *shape.in_factors).permute(
        [axis for k in range(d) for axis in (k, d + k)]
    )
    threshold = _truncation(tolerance, full.norm(), d)
    cores: list[Tensor] = []
    rest, left = interleaved.reshape(1, -1), 1
    for m, n, limit in zip(shape.out_factors, shape.in_factors, limits, strict=False):
        u, rest = _truncated_svd(rest.reshape(left * m * n, -1), limit, threshold)
        cores.append(u.reshape(left, m, n, -1))
        left = u.shape[1]
    cores.append(rest.reshape(left, shape.out_factors[-1], shape.in_factors[-1], 1))
    return [core.to(matrix.dtype).contiguous() for core in _with_equal_norms(cores)]


def tt_round(
    cores: Sequence[Tensor], *, rank: Ranks | None = None, tolerance: float | None = None
) -> list[Tensor]:
    """Lower the ranks of a TT-matrix without rebuilding it; bounds and defaults as ``tt_svd``.

    Cores 2…d are made orthogonal from the right, so that the SVDs from the left see the whole error.

    Raises:
        ValueError: rank below 1, tolerance outside [0, 1).

    Source: Oseledets 2011, algorithm 2.
    """
    shape = shape_of(cores)
    limits = _rank_limits(rank, shape)
    work = [core.detach().double() for core in cores]
    for k in range(len(work) - 1, 0, -1):
        left, m, n, right = work[k].shape
        q, r = torch.linalg.qr(work[k].reshape(left, m * n * right).T)
        work[k] = q.T.reshape(-1, m, n, right)
        work[k - 1] = work[k - 1] @ r.T
    threshold = _truncation(tolerance, work[0].norm(), shape.n_cores)
    for k, limit in enumerate(limits):
        left, m, n, right = work[k].shape
        u, rest = _truncated_svd(work[k].reshape(left * m * n, right), limit, threshold)
        work[k] = u.reshape(left, m, n, -1)
        work[k + 1] = torch.tensordot(rest, work[k + 1], dims=1)
    return [core.to(cores[0].dtype).contiguous() for core in _with_equal_norms(work)]


def shape_of(cores: Sequence[Tensor]) -> TTShape:
    """The shape of given cores, without padding.

    Raises:
        ValueError: a core is not 4-D, neighbours disagree on a rank, or an outer rank is not 1.
    """
    sizes = [tuple(core.shape) for core in cores]
    if not sizes or any(len(size) != 4 for size in sizes):
        raise ValueError(f"cores must be (rank, m, n, rank) each, got {sizes}")
    if sizes[0][0] != 1 or sizes[-1][3] != 1 or any(a[3] != b[0] for a, b in pairwise(sizes)):
        raise ValueError(f"neighbouring cores must share their rank and the outer ranks be 1, got {sizes}")
    outs, ins = tuple(s[1] for s in sizes), tuple(s[2] for s in sizes)
    return TTShape(math.prod(outs), math.prod(ins), outs, ins, tuple(s[3] for s in sizes[:-1]))


def effective_rank(matrix: Tensor) -> float:
    """How many singular directions a matrix really uses: exp of the entropy of its singular values.

        exp(-Σ p_i log p_i),    p_i = s_i / Σ s

    r for r equal singular values and none else; NaN for a zero matrix.

    Raises:
        ValueError: not a matrix.

    Source: Roy and Vetterli 2007, EUSIPCO.
    """
    if matrix.ndim != 2:
        raise ValueError(f"the effective rank is that of a matrix, got {tuple(matrix.shape)}")
    singular = torch.linalg.svdvals(matrix.detach().double())
    if singular[0] == 0:
        return math.nan
    p = singular / singular.sum()
    return math.exp(torch.special.entr(p).sum().item())


class Counts(NamedTuple):
    """Numbers of parameters: in the cores, in the bias, both, and of the dense layer with the same bias."""

    cores: int
    bias: int
    total: int
    dense: int


class TTMatrix(nn.Module):
    """A weight (n_gates · n_out, n_in) kept as TT cores; rows in gate order, as torch stacks them.

    Layouts, which differ only for more than one gate
        joint        one TT for all rows, so that the gates share cores (the thesis's "fully tensorized")
        per_gate     one TT a gate (the thesis's "naive"); ``cores`` holds gate 1's cores, then gate 2's, …
        gate_first   one TT with an extra first core (1, n_gates, 1, r)
        gate_last    one TT with an extra last core (r, n_gates, 1, 1)

    Args:
        shape: of each TT, from ``tt_shape``, ``gated_shape`` or ``kernel_shape``.
        n_gates: how many row blocks of one size there are.
        layout: see above.
        variance: of an entry of the rebuilt matrix; None for Glorot's, of the matrix that one TT stands for.

    Raises:
        ValueError: an unknown layout; rows that the gates do not divide.
    """

    def __init__(
        self,
        shape: TTShape,
        *,
        n_gates: int = 1,
        layout: Layout = "joint",
        variance: float | None = None,
    ):
        super().__init__()
        check_choice("layout", layout, get_args(Layout))
        rows_per_tt = 1 if layout == "per_gate" else n_gates
        if n_gates < 1 or shape.n_out % rows_per_tt:
            raise ValueError(f"{shape.n_out} rows do not divide into {n_gates} gates")
        self.shape = shape
        self.n_gates = n_gates
        self.layout: Layout = layout
        self.variance = variance
        self.n_out, self.n_in = shape.n_out // rows_per_tt, shape.n_in
        self.n_blocks = n_gates if layout == "per_gate" else 1
        self.cores = nn.ParameterList(
            nn.Parameter(torch.empty(core)) for _ in range(self.n_blocks) for core in shape.core_shapes
        )
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the cores anew, see ``glorot_cores``."""
        with torch.no_grad():
            for block in self.blocks():
                drawn = glorot_cores(self.shape, variance=self.variance, generator=generator)
                for core, values in zip(block, drawn, strict=True):
                    core.copy_(values)

    def blocks(self) -> list[list[Tensor]]:
        """The cores of each TT: one list, or one a gate for ``per_gate``."""
        d = self.shape.n_cores
        cores = list(self.cores)
        return [cores[k : k + d] for k in range(0, len(cores), d)]

    def dense(self) -> Tensor:
        """The weight (n_gates · n_out, n_in), differentiable in the cores."""
        blocks = [crop_rows(rebuild(cores), self) for cores in self.blocks()]
        matrix = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        return matrix[:, : self.n_in] if matrix.shape[1] != self.n_in else matrix

    def forward(self, x: Tensor) -> Tensor:
        """W x by contraction: (n_in, n_columns) -> (n_gates · n_out, n_columns)."""
        if x.ndim != 2 or x.shape[0] != self.n_in:
            raise ValueError(f"x must be ({self.n_in}, n_columns) for this matrix, got {tuple(x.shape)}")
        if self.shape.padded_in != self.n_in:
            x = nn.functional.pad(x, (0, 0, 0, self.shape.padded_in - self.n_in))
        blocks = [crop_rows(contract(cores, x), self) for cores in self.blocks()]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    @torch.no_grad()
    def resize(self, ranks: Ranks) -> None:
        """Replace the cores by freshly drawn ones of other ranks; factors stay as they are.

        Raises:
            ValueError: not one rank a bond, a rank below 1 or above what the bond can use.
        """
        own = rank_at_bonds(ranks, self.shape.n_cores)
        if any(rank > most for rank, most in zip(own, self.shape.max_ranks, strict=True)):
            raise ValueError(f"ranks {own} are above the possible maximum {self.shape.max_ranks}")
        self.shape = replace(self.shape, ranks=own, notes=_without_clamping(self.shape.notes))
        self._take([torch.empty(core) for _ in range(self.n_blocks) for core in self.shape.core_shapes])
        self.reset_parameters()

    @torch.no_grad()
    def set_dense(self, weight: Tensor, *, rank: Ranks | None = None, tolerance: float | None = None) -> None:
        """Replace the cores, and their ranks, by the TT-SVD of a dense weight; factors stay as they are.

        Neither rank nor tolerance keeps every rank that the weight needs: the result is exact. Gates of
        ``per_gate`` share their ranks, the largest that any of them needs.

        Raises:
            ValueError: ``weight`` is not (n_gates · n_out, n_in); as ``tt_svd``.
        """
        expected = (self.n_gates * self.n_out, self.n_in)
        if tuple(weight.shape) != expected:
            raise ValueError(f"this TT-matrix stands for a weight {expected}, got {tuple(weight.shape)}")
        matrices = self._block_matrices(weight)
        outs, ins = self.shape.out_factors, self.shape.in_factors
        blocks = [
            tt_svd(m, out_factors=outs, in_factors=ins, rank=rank, tolerance=tolerance) for m in matrices
        ]
        needed = [shape_of(block).ranks for block in blocks]
        ranks = tuple(max(bond) for bond in zip(*needed, strict=True))
        if any(own != ranks for own in needed):
            blocks = [
                _widened(tt_svd(m, out_factors=outs, in_factors=ins, rank=ranks), ranks) for m in matrices
            ]
        self.shape = replace(self.shape, ranks=ranks, notes=_without_clamping(self.shape.notes))
        self._take([core for block in blocks for core in block])

    @property
    def ranks(self) -> tuple[int, ...]:
        """Inner ranks r_1…r_{d-1}, the gate core's bond included."""
        return self.shape.ranks

    @property
    def counts(self) -> Counts:
        """Parameters here (a weight has no bias) and in the dense weight."""
        cores = self.n_blocks * self.shape.n_parameters
        return Counts(cores, 0, cores, self.n_gates * self.n_out * self.n_in)

    @property
    def contraction_flops(self) -> int:
        """Floating-point operations of one column by contraction, all blocks."""
        return self.n_blocks * self.shape.contraction_flops

    @property
    def dense_flops(self) -> int:
        """Floating-point operations of one column with the weight at hand."""
        return 2 * self.n_gates * self.n_out * self.n_in

    def extra_repr(self) -> str:
        gates = f"{self.n_gates} gates {self.layout}, " if self.n_gates > 1 else ""
        return f"{gates}{self.shape}, {self.counts.total} parameters (dense {self.counts.dense})"

    def _take(self, cores: Sequence[Tensor]) -> None:
        """Other cores in place of these, as these are: dtype, device, frozen or not, training or not."""
        like = self.cores[0]
        parameters = [nn.Parameter(core.to(like), requires_grad=like.requires_grad) for core in cores]
        self.cores = nn.ParameterList(parameters).train(self.training)

    def _block_matrices(self, weight: Tensor) -> list[Tensor]:
        """The matrix that each TT stands for; padding between the gates is put in where there is any."""
        if self.layout == "per_gate":
            return list(torch.split(weight, self.n_out))
        if self.layout == "joint":
            return [weight]
        n_padded = self.shape.padded_out // self.n_gates
        gates = weight.reshape(self.n_gates, self.n_out, self.n_in)
        gates = nn.functional.pad(gates, (0, 0, 0, n_padded - self.n_out))
        if self.layout == "gate_last":
            gates = gates.transpose(0, 1)
        return [gates.reshape(self.shape.padded_out, self.n_in)]


def crop_rows(padded: Tensor, matrix: TTMatrix) -> Tensor:
    """Rows of one TT as torch orders them: (∏ m_k, …) -> (n_gates · n_out, …), or (n_out, …) per gate."""
    n_columns = padded.shape[1]
    if matrix.layout in ("joint", "per_gate"):
        n_rows = matrix.shape.n_out
        return padded if padded.shape[0] == n_rows else padded[:n_rows]
    if matrix.layout == "gate_first":
        gates = padded.reshape(matrix.n_gates, -1, n_columns)
    else:
        gates = padded.reshape(-1, matrix.n_gates, n_columns).transpose(0, 1)
    return gates[:, : matrix.n_out].reshape(matrix.n_gates * matrix.n_out, n_columns)


def _merge(cores: Sequence[Tensor]) -> Tensor:
    """Cores as one core (r_0, ∏ m, ∏ n, r_d)."""
    if len(cores) == 1:
        return cores[0]
    repeated = [_repeated(cores, k) for k in range(1, len(cores))]
    split = 1 + repeated.index(min(repeated))
    left, right = _merge(cores[:split]), _merge(cores[split:])
    rank_0, m_left, n_left, rank = left.shape
    _, m_right, n_right, rank_d = right.shape
    if rank_0 * m_left == n_right * rank_d == 1:
        product = right.reshape(rank, m_right).T @ left.reshape(n_left, rank).T
    elif n_left * rank * n_right * rank_d < SMALL_PRODUCT:
        one = left.reshape(-1, rank) @ right.reshape(rank, -1)
        product = one.view(rank_0, m_left, n_left, m_right, n_right * rank_d).transpose(2, 3)
    else:  # (r_0, m_L, 1, n_L, r) @ (1, m_R, r, n_R r_d) -> (r_0, m_L, m_R, n_L, n_R r_d)
        product = left.unsqueeze(2) @ right.permute(1, 0, 2, 3).reshape(m_right, rank, n_right * rank_d)
    return product.reshape(rank_0, m_left * m_right, n_left * n_right, rank_d)


def _repeated(cores: Sequence[Tensor], split: int) -> int:
    n_left = math.prod([core.shape[2] for core in cores[:split]])
    n_right = math.prod([core.shape[2] for core in cores[split:]])
    return cores[split].shape[0] * (n_left + n_right)


def _rank_limits(rank: Ranks | None, shape: TTShape) -> tuple[int, ...]:
    if rank is None:
        return shape.max_ranks
    return tuple(
        min(r, most) for r, most in zip(rank_at_bonds(rank, shape.n_cores), shape.max_ranks, strict=True)
    )


def _truncation(tolerance: float | None, norm: Tensor, n_cores: int) -> float:
    if tolerance is None:
        # What float64 rounding alone leaves behind: without it a matrix of low rank would keep noise.
        return torch.finfo(torch.float64).eps * float(norm)
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance is a relative error in [0, 1), got {tolerance!r}")
    return tolerance * float(norm) / math.sqrt(max(n_cores - 1, 1))


def _truncated_svd(matrix: Tensor, limit: int, threshold: float) -> tuple[Tensor, Tensor]:
    """(U, S Vᵀ) with the fewest singular values whose remainder has norm ≤ threshold, at most ``limit``."""
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    tail = s.square().flip(0).cumsum(0).flip(0).sqrt()  # norm of what is lost by keeping k values
    kept = max(1, min(limit, int((tail > threshold).sum())))
    return u[:, :kept], s[:kept, None] * vt[:kept]


def _with_equal_norms(cores: Sequence[Tensor]) -> list[Tensor]:
    """The same matrix with its norm spread evenly, so that one learning rate suits every core."""
    norms = torch.stack([core.norm() for core in cores])
    if not bool((norms > 0).all()):
        return list(cores)
    mean = norms.log().mean().exp()
    return [core * (mean / norm) for core, norm in zip(cores, norms, strict=True)]


def _widened(cores: Sequence[Tensor], ranks: tuple[int, ...]) -> list[Tensor]:
    """The same matrix with zeros up to larger ranks."""
    bonds = (1, *ranks, 1)
    return [
        nn.functional.pad(core, (0, right - core.shape[3], 0, 0, 0, 0, 0, left - core.shape[0]))
        for core, left, right in zip(cores, bonds, bonds[1:], strict=False)
    ]


def _without_clamping(notes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(note for note in notes if "padded" in note)
