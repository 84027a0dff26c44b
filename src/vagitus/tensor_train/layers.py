"""Linear, convolution, embedding and attention layers whose weights are TT-matrices, with torch's semantics.

Every layer has ``from_dense`` (TT-SVD of a trained torch layer; neither rank nor tolerance: the same function
at full rank), ``like`` (the same sizes and options at rank 1, freshly drawn), ``to_dense`` (the torch layer it
stands for), ``counts`` and ``ranks``. Weights start with Glorot's variance and biases at zero; an embedding's
entries start with variance 1, as torch's.

A linear layer either rebuilds W once a call or contracts the input with the cores, see ``TTLinear``. A
convolution rebuilds its kernel and attention its projections: that costs as much as a few output positions,
and then torch's own kernel runs. An embedding multiplies the slices of the cores that a row needs and never
builds its table.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vagitus.tensor_train.matrix import Counts, TTMatrix
from vagitus.tensor_train.shape import (
    Factoring,
    Layout,
    Ranks,
    by_matrix,
    check_choice,
    gated_shape,
    kernel_shape,
    tt_shape,
)

Compute = Literal["auto", "rebuild", "contract"]

# Measured on one core of a Zen 5: an operation of a contraction takes up to three times one of a large dense
# product, and rebuilding W takes as long as the dense product of some dozens of rows.
CONTRACTION_COST = 3
REBUILD_COST_ROWS = 64


class TTLinear(nn.Module):
    """``torch.nn.Linear`` with a TT-matrix for its weight: y = W x + b.

    Computation: ``rebuild`` builds W and multiplies once; ``contract`` takes the input through the cores and
    never builds W; ``auto`` contracts where that takes CONTRACTION_COST times fewer operations than W would,
    or there are at most REBUILD_COST_ROWS rows, and rebuilds elsewhere and in an exported graph, where a
    runtime folds the rebuilt W into a constant. (Traced by ``torch.compile``, the rows do not count.)

    Args:
        in_features, out_features, bias: as ``torch.nn.Linear``.
        n_cores, rank, factoring, in_factors, out_factors: as ``tt_shape``.
        compute: see above.

    Raises:
        ValueError: as ``tt_shape``; an unknown ``compute``; in ``forward``, x does not end in in_features.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        n_cores: int = 3,
        rank: Ranks = 4,
        compute: Compute = "auto",
        factoring: Factoring = "balanced",
        in_factors: Sequence[int] | None = None,
        out_factors: Sequence[int] | None = None,
    ):
        super().__init__()
        check_choice("compute", compute, get_args(Compute))
        shape = tt_shape(
            out_features,
            in_features,
            n_cores=n_cores,
            rank=rank,
            factoring=factoring,
            out_factors=out_factors,
            in_factors=in_factors,
        )
        self.in_features, self.out_features = in_features, out_features
        self.compute: Compute = compute
        self.weight = TTMatrix(shape)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) -> (…, out_features)."""
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"TTLinear({self.in_features}, {self.out_features}): the input must end in in_features "
                f"{self.in_features}, got {tuple(x.shape)}"
            )
        if self._choose(x) == "rebuild":
            return F.linear(x, self.weight.dense(), self.bias)
        y: Tensor = self.weight(x.reshape(-1, self.in_features).T).T
        y = y if self.bias is None else y + self.bias
        return y.reshape(*x.shape[:-1], self.out_features)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Inner ranks."""
        return self.weight.ranks

    @property
    def counts(self) -> Counts:
        """Parameters in the cores and the bias, and of the dense layer."""
        return _counts(self.weight, self.bias)

    @classmethod
    def from_dense(
        cls,
        dense: nn.Linear,
        *,
        n_cores: int = 3,
        rank: Ranks | None = None,
        tolerance: float | None = None,
        compute: Compute = "auto",
        factoring: Factoring = "balanced",
    ) -> Self:
        """TT-SVD of a trained layer.

        Raises:
            ValueError: rank or tolerance out of range, see ``tt_svd``.
        """
        layer = cls.like(dense, n_cores=n_cores, compute=compute, factoring=factoring)
        _set_dense(layer.weight, layer.bias, dense.weight, dense.bias, rank, tolerance)
        return layer

    @classmethod
    def like(
        cls,
        dense: nn.Linear,
        *,
        n_cores: int = 3,
        compute: Compute = "auto",
        factoring: Factoring = "balanced",
    ) -> Self:
        """A fresh layer of rank 1 with the dense one's sizes, options, dtype and device.

        Raises:
            ValueError: as ``tt_shape``.
        """
        layer = cls(
            dense.in_features,
            dense.out_features,
            dense.bias is not None,
            n_cores=n_cores,
            rank=1,
            compute=compute,
            factoring=factoring,
        )
        return layer.to(dense.weight).train(dense.training)

    @torch.no_grad()
    def to_dense(self) -> nn.Linear:
        """The same function as a ``torch.nn.Linear``."""
        dense = nn.Linear(self.in_features, self.out_features, self.bias is not None).to(self.weight.cores[0])
        _copy_dense(dense, self.weight.dense(), self.bias)
        return dense.train(self.training)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {_counted(self.counts)}"

    def _choose(self, x: Tensor) -> str:
        if self.compute != "auto":
            return self.compute
        if torch.compiler.is_exporting():
            return "rebuild"
        few_operations = CONTRACTION_COST * self.weight.contraction_flops <= self.weight.dense_flops
        if few_operations or torch.compiler.is_compiling():
            return "contract" if few_operations else "rebuild"
        return "contract" if x.numel() <= REBUILD_COST_ROWS * self.in_features else "rebuild"


class _TTConv(nn.Module):
    """What TTConv1d and TTConv2d share; ``n_axes`` tells them apart."""

    n_axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | Literal["same", "valid"] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        *,
        n_cores: int = 3,
        rank: Ranks = 4,
        factoring: Factoring = "balanced",
    ):
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide the channels, got {in_channels} -> {out_channels} in {groups} groups"
            )
        check_choice("padding_mode", padding_mode, ("zeros", "reflect", "replicate", "circular"))
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = self._per_axis("kernel_size", kernel_size)
        self.stride = self._per_axis("stride", stride)
        self.dilation = self._per_axis("dilation", dilation)
        self.padding_mode = padding_mode
        self.padding: tuple[int, ...] | str
        if isinstance(padding, str):
            check_choice("padding", padding, ("same", "valid"))
            if padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError(f"padding='same' needs stride 1, got {self.stride}")
            self.padding = padding
        else:
            self.padding = self._per_axis("padding", padding)
        positions = math.prod(self.kernel_size)
        shape = kernel_shape(
            out_channels, in_channels // groups, positions, n_cores=n_cores, rank=rank, factoring=factoring
        )
        fan_in, fan_out = shape.n_in, positions * out_channels // groups
        self.weight = TTMatrix(shape, variance=2 / (fan_in + fan_out))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def kernel(self) -> Tensor:
        """The rebuilt kernel (out_channels, in_channels / groups, *kernel_size)."""
        return self.weight.dense().reshape(
            self.out_channels, self.in_channels // self.groups, *self.kernel_size
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, …) -> (batch, out_channels, …), or without the batch; as torch."""
        if x.ndim not in (self.n_axes + 1, self.n_axes + 2) or x.shape[-self.n_axes - 1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__}: the input must be (batch, {self.in_channels}, …) with "
                f"{self.n_axes} axes behind the channels, got {tuple(x.shape)}"
            )
        convolve = F.conv1d if self.n_axes == 1 else F.conv2d
        padding: tuple[int, ...] | str = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._margins(), mode=self.padding_mode), (0,) * self.n_axes
        y: Tensor = convolve(x, self.kernel(), self.bias, self.stride, padding, self.dilation, self.groups)
        return y

    @property
    def ranks(self) -> tuple[int, ...]:
        """Inner ranks, the kernel core's bond last."""
        return self.weight.ranks

    @property
    def counts(self) -> Counts:
        """Parameters in the cores and the bias, and of the dense layer."""
        return _counts(self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding!r}, {_counted(self.counts)}"
        )

    def _per_axis(self, name: str, value: int | tuple[int, ...]) -> tuple[int, ...]:
        values = (value,) * self.n_axes if isinstance(value, int) else tuple(value)
        least = 0 if name == "padding" else 1
        if len(values) != self.n_axes or min(values) < least:
            raise ValueError(f"{name} must be {self.n_axes} number(s) of {least} or more, got {value!r}")
        return values

    def _margins(self) -> list[int]:
        """Padding before and after, last axis first, as ``F.pad`` wants it."""
        if not isinstance(self.padding, str):
            return [p for p in reversed(self.padding) for _ in range(2)]
        total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        total = total if self.padding == "same" else [0] * self.n_axes
        return [side for t in reversed(total) for side in (t // 2, t - t // 2)]

    @classmethod
    def _from_dense(
        cls,
        dense: nn.Conv1d | nn.Conv2d,
        n_cores: int,
        rank: Ranks | None,
        tolerance: float | None,
        factoring: Factoring,
    ) -> Self:
        layer = cls.like(dense, n_cores=n_cores, factoring=factoring)
        _set_dense(layer.weight, layer.bias, dense.weight.flatten(1), dense.bias, rank, tolerance)
        return layer

    @classmethod
    def like(
        cls, dense: nn.Conv1d | nn.Conv2d, *, n_cores: int = 3, factoring: Factoring = "balanced"
    ) -> Self:
        """A fresh layer of rank 1 with the dense one's sizes, options, dtype and device.

        Raises:
            ValueError: as ``kernel_shape``.
        """
        layer = cls(
            dense.in_channels,
            dense.out_channels,
            dense.kernel_size,
            dense.stride,
            dense.padding,  # type: ignore[arg-type]
            dense.dilation,
            dense.groups,
            dense.bias is not None,
            dense.padding_mode,
            n_cores=n_cores,
            rank=1,
            factoring=factoring,
        )
        return layer.to(dense.weight).train(dense.training)

    @torch.no_grad()
    def _fill_dense(self, kind: type[nn.Conv1d] | type[nn.Conv2d]) -> nn.Module:
        dense = kind(
            self.in_channels,
            self.out_channels,
            self.kernel_size,  # type: ignore[arg-type]
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.dilation,  # type: ignore[arg-type]
            self.groups,
            self.bias is not None,
            self.padding_mode,
        ).to(self.weight.cores[0])
        _copy_dense(dense, self.kernel(), self.bias)
        return dense.train(self.training)


class TTConv1d(_TTConv):
    """``torch.nn.Conv1d`` with a TT-matrix (out_channels, in_channels / groups · kernel) for its weight.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as
            ``torch.nn.Conv1d``.
        n_cores, rank, factoring: as ``kernel_shape``: n_cores for the channels and one for the kernel.

    Raises:
        ValueError: as ``kernel_shape``; groups that do not divide the channels; in ``forward``, an input
            with other channels.
    """

    n_axes = 1

    @classmethod
    def from_dense(
        cls,
        dense: nn.Conv1d,
        *,
        n_cores: int = 3,
        rank: Ranks | None = None,
        tolerance: float | None = None,
        factoring: Factoring = "balanced",
    ) -> Self:
        """TT-SVD of a trained layer.

        Raises:
            ValueError: rank or tolerance out of range, see ``tt_svd``.
        """
        return cls._from_dense(dense, n_cores, rank, tolerance, factoring)

    def to_dense(self) -> nn.Conv1d:
        """The same function as a ``torch.nn.Conv1d``."""
        return self._fill_dense(nn.Conv1d)  # type: ignore[return-value]


class TTConv2d(_TTConv):
    """``torch.nn.Conv2d`` with a TT-matrix (out_channels, in_channels / groups · kernel) for its weight.

    Arguments and errors as ``TTConv1d``.
    """

    n_axes = 2

    @classmethod
    def from_dense(
        cls,
        dense: nn.Conv2d,
        *,
        n_cores: int = 3,
        rank: Ranks | None = None,
        tolerance: float | None = None,
        factoring: Factoring = "balanced",
    ) -> Self:
        """TT-SVD of a trained layer.

        Raises:
            ValueError: rank or tolerance out of range, see ``tt_svd``.
        """
        return cls._from_dense(dense, n_cores, rank, tolerance, factoring)

    def to_dense(self) -> nn.Conv2d:
        """The same function as a ``torch.nn.Conv2d``."""
        return self._fill_dense(nn.Conv2d)  # type: ignore[return-value]


class TTEmbedding(nn.Module):
    """``torch.nn.Embedding`` with a TT-matrix (num_embeddings, embedding_dim) for its table.

    A row is a product of one slice a core: the digits of its index choose the slices.

    Args:
        num_embeddings, embedding_dim: the size of the table.
        padding_idx: this index always gives zeros and no gradient.
        n_cores, rank, factoring: as ``tt_shape``.

    Raises:
        ValueError: as ``tt_shape``; padding_idx outside the table; in ``forward``, indices outside it or
            not integers.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        n_cores: int = 3,
        rank: Ranks = 4,
        factoring: Factoring = "balanced",
    ):
        super().__init__()
        if padding_idx is not None and not 0 <= padding_idx < num_embeddings:
            raise ValueError(f"padding_idx must be a row of the {num_embeddings}, got {padding_idx}")
        shape = tt_shape(num_embeddings, embedding_dim, n_cores=n_cores, rank=rank, factoring=factoring)
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.weight = TTMatrix(shape, variance=1.0)

    def forward(self, indices: Tensor) -> Tensor:
        """Integers of any shape -> (…, embedding_dim)."""
        if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
            raise ValueError(f"indices must be integers, got {indices.dtype}")
        flat = indices.reshape(-1)
        try:  # torch's own look-up finds what is outside a table, under torch.func too; this one is a single zero
            F.embedding(flat, flat.new_zeros(1, 1).expand(self.num_embeddings, 1))
        except IndexError:
            least, most = flat.aminmax()
            raise ValueError(
                f"indices must be in [0, {self.num_embeddings}), got {int(least)} to {int(most)}"
            ) from None
        n = flat.shape[0]
        rows: Tensor = self.weight.cores[0].new_ones(n, 1, 1)  # (n, n_1…n_k, r_k)
        remaining = self.weight.shape.padded_out
        for core in self.weight.cores:
            rank_left, m, n_columns, rank_right = core.shape
            remaining //= m
            digit = flat // remaining % m
            slices = core.transpose(0, 1)[digit].reshape(n, rank_left, n_columns * rank_right)
            rows = torch.bmm(rows, slices).reshape(n, rows.shape[1] * n_columns, rank_right)
        rows = rows.squeeze(2)[:, : self.embedding_dim]
        if self.padding_idx is not None:
            rows = rows * (flat != self.padding_idx)[:, None]
        return rows.reshape(*indices.shape, self.embedding_dim)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Inner ranks."""
        return self.weight.ranks

    @property
    def counts(self) -> Counts:
        """Parameters in the cores, and of the dense table."""
        return _counts(self.weight, None)

    @classmethod
    def from_dense(
        cls,
        dense: nn.Embedding,
        *,
        n_cores: int = 3,
        rank: Ranks | None = None,
        tolerance: float | None = None,
        factoring: Factoring = "balanced",
    ) -> Self:
        """TT-SVD of a trained table; the row of padding_idx becomes zero if it was not.

        Raises:
            ValueError: rank or tolerance out of range, see ``tt_svd``; the table renormalises its rows.
        """
        layer = cls.like(dense, n_cores=n_cores, factoring=factoring)
        layer.weight.set_dense(dense.weight, rank=rank, tolerance=tolerance)
        return layer

    @classmethod
    def like(cls, dense: nn.Embedding, *, n_cores: int = 3, factoring: Factoring = "balanced") -> Self:
        """A fresh table of rank 1 with the dense one's sizes, padding index, dtype and device.

        Raises:
            ValueError: as ``tt_shape``; the table renormalises its rows.
        """
        if dense.max_norm is not None:
            raise ValueError(
                f"a table that renormalises its rows has no TT form, got max_norm={dense.max_norm}"
            )
        layer = cls(
            dense.num_embeddings,
            dense.embedding_dim,
            dense.padding_idx,
            n_cores=n_cores,
            rank=1,
            factoring=factoring,
        )
        return layer.to(dense.weight).train(dense.training)

    @torch.no_grad()
    def to_dense(self) -> nn.Embedding:
        """The same table as a ``torch.nn.Embedding``."""
        dense = nn.Embedding(self.num_embeddings, self.embedding_dim, self.padding_idx)
        dense = dense.to(self.weight.cores[0])
        dense.weight.copy_(self.weight.dense())
        if self.padding_idx is not None:
            dense.weight[self.padding_idx] = 0
        return dense.train(self.training)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {_counted(self.counts)}"


class TTMultiheadAttention(nn.Module):
    """``torch.nn.MultiheadAttention`` with TT-matrices for its projections; keys and values of embed_dim.

    The three blocks of ``in_proj`` (query, key, value) share cores as the gates of a recurrent layer do, see
    ``TTMatrix``. Both projections are rebuilt once a call, and torch's own attention runs.

    Args:
        embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, batch_first: as
            ``torch.nn.MultiheadAttention``.
        n_cores: cores of a TT-matrix, a gate core not counted.
        rank: one number for all bonds, or the ranks of every bond, or those of ``in_proj`` and ``out_proj``.
        layout: how query, key and value share cores.
        factoring: how sizes are factored, see ``tt_shape``.

    Raises:
        ValueError: as ``tt_shape``; heads that do not divide embed_dim; in ``forward``, a query, key or value
            that does not end in embed_dim.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        batch_first: bool = False,
        *,
        n_cores: int = 3,
        rank: Ranks | Mapping[str, Ranks] = 4,
        layout: Layout = "joint",
        factoring: Factoring = "balanced",
    ):
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                f"num_heads must divide embed_dim, got {num_heads} heads and embed_dim {embed_dim}"
            )
        ranks = by_matrix(rank, ("in_proj", "out_proj"))
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, float(dropout)
        self.add_zero_attn, self.batch_first = add_zero_attn, batch_first
        self.layout: Layout = layout
        # Asked by torch's encoder layer, which would read packed dense weights here if it were True.
        self._qkv_same_embed_dim = False
        in_shape = gated_shape(
            embed_dim,
            embed_dim,
            3,
            layout=layout,
            n_cores=n_cores,
            rank=ranks["in_proj"],
            factoring=factoring,
        )
        out_shape = tt_shape(
            embed_dim, embed_dim, n_cores=n_cores, rank=ranks["out_proj"], factoring=factoring
        )
        self.in_proj = TTMatrix(in_shape, n_gates=3, layout=layout)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim)) if bias else None
        self.out_proj = TTMatrix(out_shape)
        self.out_proj_bias = nn.Parameter(torch.zeros(embed_dim)) if bias else None
        self.bias_k = nn.Parameter(torch.empty(1, 1, embed_dim)) if add_bias_kv else None
        self.bias_v = nn.Parameter(torch.empty(1, 1, embed_dim)) if add_bias_kv else None
        for bias_kv in (self.bias_k, self.bias_v):
            if bias_kv is not None:
                nn.init.xavier_normal_(bias_kv)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Output and attention weights (None unless ``need_weights``); shapes and masks as torch's."""
        for name, x in (("query", query), ("key", key), ("value", value)):
            if x.ndim not in (2, 3) or x.shape[-1] != self.embed_dim:
                raise ValueError(
                    f"TTMultiheadAttention({self.embed_dim}, {self.num_heads}): {name} must have 3 axes (2 "
                    f"without a batch) and end in embed_dim {self.embed_dim}, got {tuple(x.shape)}"
                )
        transposed = self.batch_first and query.ndim == 3
        if transposed:
            # What is one tensor stays one: torch projects it in one product.
            key_is_query, value_is_key = key is query, value is key
            query = query.transpose(0, 1)
            key = query if key_is_query else key.transpose(0, 1)
            value = key if value_is_key else value.transpose(0, 1)
        y, weights = F.multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj.dense(),
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout,
            self.out_proj.dense(),
            self.out_proj_bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return y.transpose(0, 1) if transposed else y, weights

    @property
    def ranks(self) -> dict[str, tuple[int, ...]]:
        """Inner ranks by matrix, as the constructor takes them."""
        return {"in_proj": self.in_proj.ranks, "out_proj": self.out_proj.ranks}

    @property
    def counts(self) -> Counts:
        """Parameters in the cores and the biases, and of the dense layer."""
        cores = self.in_proj.counts.cores + self.out_proj.counts.cores
        dense = self.in_proj.counts.dense + self.out_proj.counts.dense
        n_bias = sum(bias.numel() for bias in self._biases() if bias is not None)
        return Counts(cores, n_bias, cores + n_bias, dense + n_bias)

    @classmethod
    def from_dense(
        cls,
        dense: nn.MultiheadAttention,
        *,
        n_cores: int = 3,
        rank: Ranks | Mapping[str, Ranks] | None = None,
        tolerance: float | None = None,
        layout: Layout = "joint",
        factoring: Factoring = "balanced",
    ) -> Self:
        """TT-SVD of a trained layer.

        Raises:
            ValueError: keys or values of another size; rank or tolerance out of range, see ``tt_svd``.
        """
        layer = cls.like(dense, n_cores=n_cores, layout=layout, factoring=factoring)
        ranks = by_matrix(rank, layer.ranks)
        layer.in_proj.set_dense(dense.in_proj_weight, rank=ranks["in_proj"], tolerance=tolerance)
        layer.out_proj.set_dense(dense.out_proj.weight, rank=ranks["out_proj"], tolerance=tolerance)
        for own, torchs in zip(layer._biases(), _attention_biases(dense), strict=True):
            if own is not None and torchs is not None:
                with torch.no_grad():
                    own.copy_(torchs)
        return layer

    @classmethod
    def like(
        cls,
        dense: nn.MultiheadAttention,
        *,
        n_cores: int = 3,
        layout: Layout = "joint",
        factoring: Factoring = "balanced",
    ) -> Self:
        """A fresh layer of rank 1 with the dense one's sizes, options, dtype and device.

        Raises:
            ValueError: as ``tt_shape``; keys or values of another size.
        """
        if (dense.kdim, dense.vdim) != (dense.embed_dim, dense.embed_dim):
            raise ValueError(
                f"keys and values must be of embed_dim {dense.embed_dim}, got kdim={dense.kdim} and "
                f"vdim={dense.vdim}; such a layer stays dense"
            )
        layer = cls(
            dense.embed_dim,
            dense.num_heads,
            dense.dropout,
            dense.in_proj_bias is not None,
            dense.bias_k is not None,
            dense.add_zero_attn,
            dense.batch_first,
            n_cores=n_cores,
            rank=1,
            layout=layout,
            factoring=factoring,
        )
        return layer.to(dense.out_proj.weight).train(dense.training)

    @torch.no_grad()
    def to_dense(self) -> nn.MultiheadAttention:
        """The same function as a ``torch.nn.MultiheadAttention``."""
        dense = nn.MultiheadAttention(
            self.embed_dim,
            self.num_heads,
            self.dropout,
            self.in_proj_bias is not None,
            self.bias_k is not None,
            self.add_zero_attn,
            batch_first=self.batch_first,
        ).to(self.in_proj.cores[0])
        dense.in_proj_weight.copy_(self.in_proj.dense())
        dense.out_proj.weight.copy_(self.out_proj.dense())
        for own, torchs in zip(self._biases(), _attention_biases(dense), strict=True):
            if own is not None and torchs is not None:
                torchs.copy_(own)
        return dense.train(self.training)

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}, {_counted(self.counts)}"

    def _biases(self) -> tuple[Tensor | None, ...]:
        return self.in_proj_bias, self.out_proj_bias, self.bias_k, self.bias_v


def _attention_biases(dense: nn.MultiheadAttention) -> tuple[Tensor | None, ...]:
    return dense.in_proj_bias, dense.out_proj.bias, dense.bias_k, dense.bias_v


def _counts(weight: TTMatrix, bias: Tensor | None) -> Counts:
    cores, _, _, dense = weight.counts
    n_bias = 0 if bias is None else bias.numel()
    return Counts(cores, n_bias, cores + n_bias, dense + n_bias)


def _counted(counts: Counts) -> str:
    return f"{counts.total} parameters ({counts.cores} in cores, {counts.bias} bias; dense {counts.dense})"


@torch.no_grad()
def _set_dense(
    weight: TTMatrix,
    bias: Tensor | None,
    dense_weight: Tensor,
    dense_bias: Tensor | None,
    rank: Ranks | None,
    tolerance: float | None,
) -> None:
    weight.set_dense(dense_weight, rank=rank, tolerance=tolerance)
    if bias is not None and dense_bias is not None:
        bias.copy_(dense_bias)


def _copy_dense(dense: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    dense.get_parameter("weight").copy_(weight)
    if bias is not None:
        dense.get_parameter("bias").copy_(bias)
