"""LSTM and GRU whose weights are TT-matrices, with the semantics of ``torch.nn.LSTM`` and ``torch.nn.GRU``.

    LSTM   i, f, o = sigmoid(…), g = tanh(W_ig x + W_hg h + b_g);  c' = f c + i g;  h' = o tanh(c')
    GRU    r, z = sigmoid(…), n = tanh(W_in x + b_in + r (W_hn h + b_hn));  h' = (1 - z) n + z h

Conventions
    gates        in torch's order: i, f, g, o and r, z, n
    bias rule    a layer and direction has one vector of 4 · hidden_size: torch's b_ih + b_hh wherever only
                 the sum matters. That is one bias a gate for the LSTM; for the GRU r, z, b_in and b_hn, the
                 last two apart because r multiplies only b_hn. It starts at zero.
    time         x (n_steps, batch, n_features) outside; (n_steps, n_features, batch) inside a contraction

Two ways to compute, one result
    rebuild      W is rebuilt from its cores once a sequence and torch's own kernel runs it
    contract     W is never built: batch last, each core one batched product on views, the input's part for
                 many steps in one product, and one autograd function over the whole sequence. Once
                 differentiable, in the parameters' dtype also under autocast
    auto         the faster of the two, see ``choose_compute`` and ``predicted_ns``

Source: Onu et al. 2020, arXiv:2010.04196.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from vagitus.tensor_train.matrix import Counts, TTMatrix
from vagitus.tensor_train.sequence import Recurrence, run
from vagitus.tensor_train.shape import Factoring, Layout, Ranks, by_matrix, check_choice, gated_shape

Compute = Literal["auto", "rebuild", "contract"]

# W_ih is multiplied as it is where contracting would not take this many times fewer operations: a contraction
# runs at a quarter to a half of the speed of one dense product, operation by operation.
DENSE_INPUT_RATIO = 4

# Numbers of gates of one step that are worked on together: what a step touches then stays near a core's 1 MB of
# second-level cache. A larger batch is contracted in blocks of sequences, one block after the other.
BLOCK_NUMBERS = 1 << 17


class DenseSpeed(NamedTuple):
    """What torch's own layer does on one core.

    A step reads all weights whatever the batch, so that a small batch costs as much as ``least_columns``. The
    last three are the time of training over that of a forward pass: for a small batch, and for a large one
    ``training_large + training_large_units / hidden_size``.
    """

    products_per_ns: float
    least_columns: float
    training_small: float
    training_large: float
    training_large_units: float


# What ``predicted_ns`` computes with. Measured on one core of a Zen 5, torch 2.13, H from 256 to 1024, batch from
# 1 to 128, ranks 1 to 16. torch's LSTM is one fused oneDNN kernel (AVX-512), its GRU is not.
DENSE_SPEED = {"lstm": DenseSpeed(100, 5, 2.3, 2.6, 450), "gru": DenseSpeed(35, 2.5, 8.0, 3.1, 0)}
REBUILD_NS, REBUILD_NS_PER_NUMBER, REBUILD_TRAINING = 150_000, 0.8, 3
CONTRACT_NS, CONTRACT_NS_PER_STEP, CONTRACT_NS_PER_STATE, CONTRACT_TRAINING = 250_000, 40_000, 2.2, 2.9
CONTRACT_DENSE_PRODUCTS_PER_NS = 50  # of W_ih, where it is not contracted
CONTRACT_LEAST_COLUMNS = (3, 12)  # what a batch of 1, and one of 2 or more, cost at least
# n threads make torch's kernel n ** .85 times faster; of a contraction only the products and gates, which are
# small, and those n ** .32 times. Measured with two.
DENSE_THREADS, CONTRACT_THREADS = 0.85, 0.32


def contract_products_per_ns(rank: int) -> float:
    """Multiplications a nanosecond of a contraction: higher ranks make larger products, which run faster."""
    return min(22 + 3 * rank, 44)


class _TTRecurrent(nn.Module):
    """What TTLSTM and TTGRU share; ``n_gates`` and ``cell`` tell them apart."""

    n_gates: int
    cell: Literal["lstm", "gru"]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        n_cores: int = 3,
        rank: Ranks | Mapping[str, Ranks] = 4,
        layout: Layout = "joint",
        compute: Compute = "auto",
        factoring: Factoring = "balanced",
    ):
        super().__init__()
        check_choice("compute", compute, get_args(Compute))
        for name, value in (
            ("input_size", input_size),
            ("hidden_size", hidden_size),
            ("num_layers", num_layers),
        ):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value!r}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout is a probability in [0, 1], got {dropout!r}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout = float(dropout)
        self.layout: Layout = layout
        self.compute: Compute = compute
        names = [name for layer in self._suffixes() for name in (f"weight_ih_{layer}", f"weight_hh_{layer}")]
        ranks = by_matrix(rank, names)
        n_directions = 2 if bidirectional else 1
        for index, suffix in enumerate(self._suffixes()):
            n_in = input_size if index < n_directions else n_directions * hidden_size
            for name, size in ((f"weight_ih_{suffix}", n_in), (f"weight_hh_{suffix}", hidden_size)):
                shape = gated_shape(
                    hidden_size,
                    size,
                    self.n_gates,
                    layout=layout,
                    n_cores=n_cores,
                    rank=ranks[name],
                    factoring=factoring,
                )
                self.add_module(name, TTMatrix(shape, n_gates=self.n_gates, layout=layout))
            zeros = nn.Parameter(torch.zeros(4 * hidden_size)) if bias else None
            self.register_parameter(f"bias_{suffix}", zeros)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the cores anew (``glorot_cores``) and set the biases to zero."""
        for matrix in self.matrices().values():
            matrix.reset_parameters(generator)
        for suffix in self._suffixes():
            bias = self._bias(suffix)
            if bias is not None:
                nn.init.zeros_(bias)

    def matrices(self) -> dict[str, TTMatrix]:
        """The TT-matrices under torch's names: ``weight_ih_l0``, ``weight_hh_l0``, ``…_reverse``, …"""
        names = (f"weight_{part}_{suffix}" for suffix in self._suffixes() for part in ("ih", "hh"))
        return {name: self.get_submodule(name) for name in names}  # type: ignore[misc]

    @property
    def ranks(self) -> dict[str, tuple[int, ...]]:
        """Inner ranks by matrix, as the constructor takes them."""
        return {name: matrix.ranks for name, matrix in self.matrices().items()}

    @property
    def counts(self) -> Counts:
        """Parameters in the cores and the bias, and of a dense layer under the same bias rule."""
        cores = sum(matrix.counts.cores for matrix in self.matrices().values())
        dense = sum(matrix.counts.dense for matrix in self.matrices().values())
        bias = 4 * self.hidden_size * len(list(self._suffixes())) if self.bias else 0
        return Counts(cores, bias, cores + bias, dense + bias)

    def extra_repr(self) -> str:
        counts = self.counts
        options = {
            "num_layers": (self.num_layers, 1),
            "bias": (self.bias, True),
            "batch_first": (self.batch_first, False),
            "dropout": (self.dropout, 0.0),
            "bidirectional": (self.bidirectional, False),
            "layout": (self.layout, "joint"),
            "compute": (self.compute, "auto"),
        }
        shown = "".join(f", {name}={value}" for name, (value, default) in options.items() if value != default)
        return (
            f"{self.input_size}, {self.hidden_size}{shown}, {counts.total} parameters "
            f"({counts.cores} in cores, {counts.bias} bias; dense {counts.dense})"
        )

    def choose_compute(self, x: Tensor, batch_sizes: Tensor | None = None) -> Literal["rebuild", "contract"]:
        """What ``auto`` does with an input (or with packed data and its batch sizes).

        On a CPU the way that ``predicted_ns`` says is faster, trained if gradients are recorded. It contracts
        under torch.func, which cannot batch torch's kernels; it rebuilds on any other device, whose kernels
        leave a loop in Python behind, under autocast, which speeds up only a dense product, and in an exported
        graph, where a runtime folds the rebuilt weights into constants.
        """
        if torch._C._are_functorch_transforms_active():
            return "contract"
        if torch.compiler.is_exporting() or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return "rebuild"
        if batch_sizes is not None:
            n_steps, batch = len(batch_sizes), int(batch_sizes[0])
        else:
            batch, n_steps = x.shape[:2] if self.batch_first else (x.shape[1], x.shape[0])
        predicted = self.predicted_ns(
            n_steps, batch, training=torch.is_grad_enabled(), n_threads=torch.get_num_threads()
        )
        return "contract" if predicted["contract"] < predicted["rebuild"] else "rebuild"

    def predicted_ns(
        self, n_steps: int, batch: int, *, training: bool, n_threads: int = 1
    ) -> dict[str, float]:
        """Nanoseconds on a CPU of the two ways to compute, by a model with the constants above.

            rebuild   = rebuilding W + n_steps · (products of W) · columns / speed of torch's kernel
            contract  = set-up + n_steps · (calls + products of the cores · columns / speed + gates)

        Only their order matters; the constants are those of one machine.

        Args:
            n_steps, batch: of the input.
            training: forward and backward, rather than forward alone.
            n_threads: that torch computes with.
        """
        dense = through_w = contracted = (
            0.0  # products of a step and column: of W, and as they are contracted
        )
        for name, matrix in self.matrices().items():
            dense += matrix.dense_flops / 2
            if name.startswith("weight_ih") and _is_better_dense(matrix):
                through_w += matrix.dense_flops / 2
            else:
                contracted += matrix.contraction_flops / 2
        speed, n_layers = DENSE_SPEED[self.cell], len(list(self._suffixes()))
        small = speed.least_columns * (speed.training_small if training else 1)
        training_large = speed.training_large + speed.training_large_units / self.hidden_size
        large = batch * (training_large if training else 1)
        kernel_speed = speed.products_per_ns * n_threads**DENSE_THREADS
        rebuilding = (REBUILD_NS + REBUILD_NS_PER_NUMBER * dense) * (REBUILD_TRAINING if training else 1)
        columns = max(batch, CONTRACT_LEAST_COLUMNS[batch > 1])
        largest_rank = max(max(ranks, default=1) for ranks in self.ranks.values())
        calls = CONTRACT_NS + n_steps * CONTRACT_NS_PER_STEP * n_layers
        products_and_gates = n_steps * (
            contracted * columns / contract_products_per_ns(largest_rank)
            + through_w * batch / CONTRACT_DENSE_PRODUCTS_PER_NS
            + CONTRACT_NS_PER_STATE * self.hidden_size * batch * n_layers
        )
        contracting = calls + products_and_gates / n_threads**CONTRACT_THREADS
        return {
            "rebuild": rebuilding + n_steps * dense * max(small, large) / kernel_speed,
            "contract": contracting * (CONTRACT_TRAINING if training else 1),
        }

    def _suffixes(self) -> Iterator[str]:
        for layer in range(self.num_layers):
            yield f"l{layer}"
            if self.bidirectional:
                yield f"l{layer}_reverse"

    def _bias(self, suffix: str) -> Tensor | None:
        bias: Tensor | None = getattr(self, f"bias_{suffix}")
        return bias

    def _run(
        self, x: Tensor | PackedSequence, states: tuple[Tensor, ...] | None
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, ...]]:
        if isinstance(x, PackedSequence):
            _check_packed(x)
            self._check_input(x.data, "packed data", 2)
            states = self._states(states, x.data, int(x.batch_sizes[0]), batched=True)
            if x.sorted_indices is not None:
                states = tuple(state.index_select(1, x.sorted_indices) for state in states)
            data, states = self._compute(x.data, x.batch_sizes, states)
            if x.unsorted_indices is not None:
                states = tuple(state.index_select(1, x.unsorted_indices) for state in states)
            return PackedSequence(data, x.batch_sizes, x.sorted_indices, x.unsorted_indices), states
        if x.ndim not in (2, 3):
            raise ValueError(f"{self._what()}: input must be 3-D, or 2-D for one sequence, got {_size(x)}")
        batched = x.ndim == 3
        batch_axis = 0 if self.batch_first else 1
        x = x if batched else x.unsqueeze(batch_axis)
        self._check_input(x, "input", 3)
        if x.shape[1 - batch_axis] == 0:
            raise ValueError(f"{self._what()}: a sequence needs one step at least, got input {_size(x)}")
        states = self._states(states, x, x.shape[batch_axis], batched=batched)
        y, states = self._compute(x, None, states)
        if not batched:
            y, states = y.squeeze(batch_axis), tuple(state.squeeze(1) for state in states)
        return y, states

    def _states(
        self, states: tuple[Tensor, ...] | None, x: Tensor, batch: int, *, batched: bool
    ) -> tuple[Tensor, ...]:
        n_states = 2 if self.cell == "lstm" else 1
        n_layers = len(list(self._suffixes()))
        if states is None:
            zeros = torch.zeros(n_layers, batch, self.hidden_size, dtype=x.dtype, device=x.device)
            return (zeros,) * n_states
        expected = (n_layers, batch, self.hidden_size) if batched else (n_layers, self.hidden_size)
        if len(states) != n_states or any(tuple(state.shape) != expected for state in states):
            got = ", ".join(_size(state) for state in states)
            raise ValueError(
                f"{self._what()}: an initial state must be {expected} "
                f"(layers x directions, batch, hidden_size), got {got}"
            )
        return states if batched else tuple(state.unsqueeze(1) for state in states)

    def _check_input(self, x: Tensor, what: str, ndim: int) -> None:
        if x.ndim != ndim or x.shape[-1] != self.input_size:
            raise ValueError(
                f"{self._what()}: {what} must end in input_size {self.input_size} and have {ndim} axes, "
                f"got {_size(x)}"
            )
        dtype = next(self.parameters()).dtype
        if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                f"{self._what()}: {what} is {x.dtype} and the parameters are {dtype}; convert one of them"
            )

    def _what(self) -> str:
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size})"

    def _compute(
        self, x: Tensor, batch_sizes: Tensor | None, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        compute = self.compute
        if compute == "auto":
            compute = self.choose_compute(x, batch_sizes)
        if compute == "rebuild":
            return self._rebuild(x, batch_sizes, states)
        with torch.autocast(x.device.type, enabled=False):
            return self._contract(x, batch_sizes, states)

    def _rebuild(
        self, x: Tensor, batch_sizes: Tensor | None, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        flat = self._dense_parameters(x.device.type)
        kernel = _torch_lstm if self.cell == "lstm" else _torch_gru
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            # Traced for training, torch's kernel fails; torch.compile leaves nn.LSTM alone as well.
            kernel = torch.compiler.disable(kernel)  # type: ignore[no-untyped-call]
        hx = states if self.cell == "lstm" else states[0]
        options = (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        if batch_sizes is None:
            y, *states_out = kernel(x, hx, flat, *options, self.batch_first)
        else:
            y, *states_out = kernel(x, batch_sizes, hx, flat, *options)
        return y, tuple(states_out)

    def _dense_parameters(self, device_type: str) -> list[Tensor]:
        """Weights and biases as torch's kernels take them: w_ih, w_hh, b_ih, b_hh a layer and direction."""
        flat: list[Tensor] = []
        # Rounding to half precision happens once, in the kernel, as it does for dense weights.
        with torch.autocast(device_type, enabled=False):
            for suffix in self._suffixes():
                for part in ("ih", "hh"):
                    matrix: TTMatrix = self.get_submodule(f"weight_{part}_{suffix}")  # type: ignore[assignment]
                    flat.append(matrix.dense().contiguous())
                bias = self._bias(suffix)
                if bias is not None:
                    flat.extend(self._torch_biases(bias))
        return flat

    def _torch_biases(self, bias: Tensor) -> tuple[Tensor, Tensor]:
        """b_ih and b_hh."""
        n = self.hidden_size
        # Written out: exported, zeros_like and new_zeros leave a cast that a runtime cannot fold away.
        nothing = torch.zeros((4 if self.cell == "lstm" else 2) * n, dtype=bias.dtype, device=bias.device)
        if self.cell == "lstm":
            return bias, nothing
        return bias[: 3 * n], torch.cat([nothing, bias[3 * n :]])

    def _contract(
        self, x: Tensor, batch_sizes: Tensor | None, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        dtype = next(self.parameters()).dtype
        lengths: Tensor | None = None
        active: list[int] = []
        if batch_sizes is not None:
            x, lengths = pad_packed_sequence(PackedSequence(x, batch_sizes))
            active = batch_sizes.tolist()
        elif self.batch_first:
            x = x.transpose(0, 1)
        n_steps, batch, _ = x.shape
        x = x.to(dtype).transpose(1, 2)  # (n_steps, n_features, batch)
        columns = [state.to(dtype).transpose(1, 2) for state in states]  # (layers, hidden_size, batch)
        weights = [self._contraction_weights(suffix) for suffix in self._suffixes()]
        n_blocks = max(1, round(batch * self.n_gates * self.hidden_size / BLOCK_NUMBERS))
        width = max(1, -(-batch // n_blocks))
        ys, finals = [], []
        for start in range(0, max(batch, 1), width):
            here = slice(start, start + width)
            running = tuple(n - start for n in active if n > start)  # at each step of this block
            own_steps = len(running) if active else n_steps
            own_x, own_columns = x[:own_steps, :, here], [column[:, :, here] for column in columns]
            own_active = tuple(min(n, own_x.shape[2]) for n in running)
            y, final = self._contract_block(own_x, own_active, own_columns, weights)
            ys.append(
                nn.functional.pad(y, (0, 0, 0, 0, 0, n_steps - own_steps)) if own_steps < n_steps else y
            )
            finals.append(final)
        states_out = tuple(torch.cat(state, dim=1) for state in zip(*finals, strict=True))
        if self.batch_first and lengths is None:
            return torch.cat([y.permute(2, 0, 1) for y in ys]), states_out
        y = torch.cat([y.transpose(1, 2) for y in ys], dim=1)
        return y if lengths is None else pack_padded_sequence(y, lengths).data, states_out

    def _contraction_weights(self, suffix: str) -> tuple[Layout, list[Tensor], list[Tensor], Tensor | None]:
        """Layout and cores of W_ih, cores of W_hh, and the bias.

        W_ih is one core, itself, where contracting would take as long: for a few dozen input features.
        """
        input_matrix: TTMatrix = self.get_submodule(f"weight_ih_{suffix}")  # type: ignore[assignment]
        hidden_matrix: TTMatrix = self.get_submodule(f"weight_hh_{suffix}")  # type: ignore[assignment]
        layout, cores = self.layout, list(input_matrix.cores)
        if _is_better_dense(input_matrix):
            layout, cores = "joint", [input_matrix.dense()[None, :, :, None]]
        return layout, cores, list(hidden_matrix.cores), self._bias(suffix)

    def _contract_block(
        self,
        x: Tensor,
        active: tuple[int, ...],
        columns: list[Tensor],
        weights: list[tuple[Layout, list[Tensor], list[Tensor], Tensor | None]],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All layers on some sequences: x (n_steps, n_in, batch) -> h of the last layer, final states."""
        finals: list[tuple[Tensor, ...]] = []
        n_directions = 2 if self.bidirectional else 1
        directions: list[Tensor] = []
        for index, (input_layout, input_cores, hidden_cores, bias) in enumerate(weights):
            reverse = len(directions) == 1
            recurrence = Recurrence(self.cell, self.layout, input_layout, len(input_cores), active, reverse)
            own = [column[index].contiguous() for column in columns]
            h0, c0 = own if self.cell == "lstm" else (own[0], None)
            h, *final = run(recurrence, x.contiguous(), h0, c0, bias, [*input_cores, *hidden_cores])
            finals.append(tuple(final[: len(columns)]))
            directions.append(h)
            if len(directions) == n_directions:
                x = h if n_directions == 1 else torch.cat(directions, dim=1)
                directions = []
                if self.dropout and index < len(weights) - 1:
                    x = nn.functional.dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack([s.T for s in state]) for state in zip(*finals, strict=True))

    @classmethod
    def _from_dense(
        cls,
        dense: nn.LSTM | nn.GRU,
        n_cores: int,
        rank: Ranks | Mapping[str, Ranks] | None,
        tolerance: float | None,
        layout: Layout,
        compute: Compute,
        factoring: Factoring,
    ) -> Self:
        layer = cls.like(dense, n_cores=n_cores, layout=layout, compute=compute, factoring=factoring)
        ranks = by_matrix(rank, layer.matrices())
        for name, matrix in layer.matrices().items():
            matrix.set_dense(getattr(dense, name), rank=ranks[name], tolerance=tolerance)
        for suffix in layer._suffixes():
            bias = layer._bias(suffix)
            if bias is not None:
                b_ih, b_hh = getattr(dense, f"bias_ih_{suffix}"), getattr(dense, f"bias_hh_{suffix}")
                n = dense.hidden_size
                both = b_ih + b_hh
                merged = (
                    both if cls.cell == "lstm" else torch.cat([both[: 2 * n], b_ih[2 * n :], b_hh[2 * n :]])
                )
                with torch.no_grad():
                    bias.copy_(merged)
        return layer

    @classmethod
    def like(
        cls,
        dense: nn.LSTM | nn.GRU,
        *,
        n_cores: int = 3,
        layout: Layout = "joint",
        compute: Compute = "auto",
        factoring: Factoring = "balanced",
    ) -> Self:
        """A fresh layer of rank 1 with the dense one's sizes, options, dtype and device.

        Raises:
            ValueError: the layer has projections; as the constructor.
        """
        if dense.proj_size:
            raise ValueError(f"projections have no TT form here, got proj_size={dense.proj_size}")
        layer = cls(
            dense.input_size,
            dense.hidden_size,
            dense.num_layers,
            dense.bias,
            dense.batch_first,
            dense.dropout,
            dense.bidirectional,
            n_cores=n_cores,
            rank=1,
            layout=layout,
            compute=compute,
            factoring=factoring,
        )
        return layer.to(dense.get_parameter("weight_hh_l0")).train(dense.training)

    def _to_dense(self, kind: type[nn.LSTM] | type[nn.GRU]) -> nn.LSTM | nn.GRU:
        dense = kind(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bias,
            self.batch_first,
            self.dropout,
            self.bidirectional,
        ).to(next(self.parameters()))
        with torch.no_grad():
            for parameter, value in zip(
                dense.parameters(), self._dense_parameters(next(self.parameters()).device.type), strict=True
            ):
                parameter.copy_(value)
        return dense.train(self.training)


class TTLSTM(_TTRecurrent):
    """``torch.nn.LSTM`` with TT-matrices for weights: same arguments, shapes, states and numbers.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: as ``torch.nn.LSTM``
            (bias: one vector a layer and direction, see the module's bias rule).
        n_cores: cores of a TT-matrix, a gate core not counted.
        rank: one number for all bonds, clamped to what a bond can use and noted in the repr; or the ranks of
            every bond; or those by matrix name, as ``ranks`` gives them.
        layout: how the four gates share cores, see ``TTMatrix``.
        compute: ``rebuild``, ``contract`` or ``auto``, see the module and ``choose_compute``.
        factoring: how sizes are factored, see ``tt_shape``.

    Raises:
        ValueError: a size, rank or number of cores below 1; an explicit rank above the maximum; an unknown
            layout, compute or factoring. In ``forward``: wrong input or state shapes, no step at all, a
            packed sequence that is empty or not sorted by falling length.
    """

    n_gates = 4
    cell = "lstm"

    def forward(
        self, x: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """(n_steps, batch, input_size), or batch first, or packed -> output, (h_n, c_n); as ``nn.LSTM``."""
        y, (h_n, c_n) = self._run(x, hx)
        return y, (h_n, c_n)

    @classmethod
    def from_dense(
        cls,
        dense: nn.LSTM,
        *,
        n_cores: int = 3,
        rank: Ranks | Mapping[str, Ranks] | None = None,
        tolerance: float | None = None,
        layout: Layout = "joint",
        compute: Compute = "auto",
        factoring: Factoring = "balanced",
    ) -> Self:
        """TT-SVD of a trained layer; neither rank nor tolerance: the same function, at full rank.

        Raises:
            ValueError: the layer has projections; rank or tolerance out of range.
        """
        return cls._from_dense(dense, n_cores, rank, tolerance, layout, compute, factoring)

    def to_dense(self) -> nn.LSTM:
        """The same function as a ``torch.nn.LSTM`` (all bias in b_ih)."""
        dense = self._to_dense(nn.LSTM)
        return dense  # type: ignore[return-value]


class TTGRU(_TTRecurrent):
    """``torch.nn.GRU`` with TT-matrices for weights; arguments and errors as ``TTLSTM``."""

    n_gates = 3
    cell = "gru"

    def forward(self, x: Tensor | PackedSequence, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        """(n_steps, batch, input_size), or batch first, or packed -> output, h_n; as ``nn.GRU``."""
        y, (h_n,) = self._run(x, None if hx is None else (hx,))
        return y, h_n

    @classmethod
    def from_dense(
        cls,
        dense: nn.GRU,
        *,
        n_cores: int = 3,
        rank: Ranks | Mapping[str, Ranks] | None = None,
        tolerance: float | None = None,
        layout: Layout = "joint",
        compute: Compute = "auto",
        factoring: Factoring = "balanced",
    ) -> Self:
        """TT-SVD of a trained layer; neither rank nor tolerance: the same function, at full rank.

        Raises:
            ValueError: rank or tolerance out of range.
        """
        return cls._from_dense(dense, n_cores, rank, tolerance, layout, compute, factoring)

    def to_dense(self) -> nn.GRU:
        """The same function as a ``torch.nn.GRU`` (r's and z's bias in b_ih)."""
        dense = self._to_dense(nn.GRU)
        return dense  # type: ignore[return-value]


def _is_better_dense(input_matrix: TTMatrix) -> bool:
    return input_matrix.dense_flops < DENSE_INPUT_RATIO * input_matrix.contraction_flops


def _torch_lstm(*arguments: Any) -> tuple[Tensor, ...]:
    result: tuple[Tensor, ...] = torch.lstm(*arguments)
    return result


def _torch_gru(*arguments: Any) -> tuple[Tensor, ...]:
    result: tuple[Tensor, ...] = torch.gru(*arguments)
    return result


def _size(x: Tensor) -> str:
    return str(tuple(x.shape))


def _check_packed(x: PackedSequence) -> None:
    sizes = x.batch_sizes
    if len(sizes) == 0 or x.data.shape[0] == 0:
        raise ValueError(f"the packed sequence is empty: data {_size(x.data)}, batch sizes {sizes.tolist()}")
    if bool((sizes[1:] > sizes[:-1]).any()) or int(sizes[-1]) < 1:
        raise ValueError(
            f"the packed sequence is not sorted by falling length: batch sizes {sizes.tolist()}; "
            f"pack with pack_padded_sequence(..., enforce_sorted=False)"
        )
    if int(sizes.sum()) != x.data.shape[0]:
        raise ValueError(
            f"packed data {_size(x.data)} and batch sizes {sizes.tolist()} (sum {int(sizes.sum())}) "
            f"do not belong together"
        )
