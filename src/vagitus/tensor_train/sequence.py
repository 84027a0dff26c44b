"""A recurrent layer over a whole sequence without its weight matrices: forward, backward, autograd.

Conventions
    x            (n_steps, n_in, batch): the batch stands last, so that a core is one product on views
    h, c         (hidden_size, batch); of all steps (n_steps, hidden_size, batch)
    gates        (n_steps, n_gates · hidden_size, batch), in torch's order, activated in place
    W            a TT-matrix of one layout, see ``matrix.TTMatrix``; its cores are a flat list here
    active       how many sequences still run at each step (they fall, as in a packed sequence); the columns
                 behind them keep their state, forward and in reverse, and feed no gradient

The gates of a chunk of steps are filled by one contraction of the input; then the recurrence adds W_hh h
to them step by step, in cache. Backward runs the chunks the other way round and recomputes the running
tensors of a contraction instead of keeping them: kept are x, the gates, h, and c (LSTM) or W_hn h + b_hn
(GRU), which is what a dense layer keeps.

Gradients are exact and once differentiable. To ``torch.compile`` the two are opaque operators, under
``torch.vmap`` a loop.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vagitus.tensor_train.matrix import core_operator

# Numbers of gates that a chunk of steps holds: 1 MB of float32, a core's share of cache. Larger chunks spare
# calls, smaller ones find the gates still in cache when the recurrence adds to them.
CHUNK_NUMBERS = 1 << 18

# A core's gradient is a sum over what stands on its left. Below this many numbers the terms are kept apart until
# the end, one product a call for all of them; above it they would not fit a cache and are summed as they come.
LARGE_NUMBERS = 1 << 14

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


@dataclass(frozen=True)
class Recurrence:
    """What is fixed about one layer in one direction.

    Args:
        cell: ``lstm`` or ``gru``.
        layout: of W_hh.
        input_layout: of W_ih. One core (1, n_gates · hidden_size, n_in, 1) is W_ih itself.
        n_input_cores: how many of the flat list of cores belong to W_ih; the rest are W_hh's.
        active: running sequences at each step; empty: all of them always.
        reverse: from the last step to the first.
    """

    cell: str
    layout: str
    input_layout: str
    n_input_cores: int
    active: tuple[int, ...] = ()
    reverse: bool = False

    @property
    def settings(self) -> tuple[int, str, str, str, list[int], bool]:
        """The same as the operators take it."""
        return (
            self.n_input_cores,
            self.cell,
            self.layout,
            self.input_layout,
            list(self.active),
            self.reverse,
        )


def run(
    recurrence: Recurrence,
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    bias: Tensor | None,
    cores: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """h of every step (n_steps, hidden_size, batch), and the final h and c (c empty for a GRU).

    Args:
        recurrence: what is fixed.
        x: (n_steps, n_in, batch), contiguous.
        h0, c0: (hidden_size, batch), contiguous; c0 only for an LSTM.
        bias: (4 · hidden_size,) by the bias rule of ``recurrent``, or None.
        cores: of W_ih, then of W_hh.
    """
    given = [t for t in (x, h0, c0, bias, *cores) if t is not None]
    wants_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    if torch.compiler.is_compiling():
        settings = (*recurrence.settings, wants_gradient)
        h, h_n, c_n, *_ = _forward_op(x, h0, c0, bias, list(cores), *settings)
    else:
        h, h_n, c_n, *_ = _Sequence.apply(recurrence, wants_gradient, x, h0, c0, bias, *cores)  # type: ignore[no-untyped-call]
    return h, h_n, c_n


class _Contraction:
    """One TT applied to blocks (n_steps, n_in, batch) of a fixed size, on buffers that are used again.

    ``backward`` goes forward again up to the last core, for what every core received.
    """

    def __init__(self, cores: Sequence[Tensor], n_steps: int, batch: int) -> None:
        self.cores = cores
        self.n_in = math.prod(core.shape[2] for core in cores)
        self.n_out = math.prod(core.shape[1] for core in cores)
        self.n_steps, self.batch = n_steps, batch
        self.stages: list[_Stage] = []
        left, right = n_steps, self.n_in * batch
        for core in cores:
            right //= core.shape[2]
            self.stages.append(_Stage(core, left, right))
            left *= core.shape[1]

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """W x, added to ``out`` if given."""
        for stage in self.stages[:-1]:
            x = stage.forward(x)
        if out is not None:
            return self.stages[-1].forward_into(x, out)
        return self.stages[-1].forward(x).view(self.n_steps, self.n_out, self.batch)

    def backward(self, x: Tensor, gradient: Tensor, *, to_input: bool) -> Tensor | None:
        """Add to the cores' gradients; Wᵀ gradient (n_steps, n_in, batch) if asked for."""
        for stage in self.stages[:-1]:
            x = stage.forward(x)
        self.stages[-1].receive(x)
        for stage in reversed(self.stages[1:]):
            stage.add_gradient(gradient)
            gradient = stage.to_input(gradient)
        first = self.stages[0]
        first.add_gradient(gradient)
        return first.to_input(gradient).view(self.n_steps, self.n_in, self.batch) if to_input else None


class _Stage:
    """One core of a contraction: (left, r n, right) -> (left, m r', right), by the cheapest kind of product.

    The products: one matrix product where there is nothing on the left or on the right, else a batch of them.
    """

    def __init__(self, core: Tensor, left: int, right: int) -> None:
        rank_left, m, n, rank_right = core.shape
        self.core_shape = core.shape
        self.operator = core_operator(core).contiguous()
        self.rows, self.columns = m * rank_right, rank_left * n
        self.is_large = self.rows * self.columns >= LARGE_NUMBERS
        self.left, self.right = left, right
        if left == 1:
            self.in_shape: tuple[int, ...] = (self.columns, right)
            self.out_shape: tuple[int, ...] = (self.rows, right)
        elif right == 1:
            self.in_shape, self.out_shape = (left, self.columns), (left, self.rows)
        else:
            self.in_shape, self.out_shape = (left, self.columns, right), (left, self.rows, right)
            self.expanded = self.operator.expand(left, -1, -1)
            self.expanded_t = self.operator.T.expand(left, -1, -1)
        self.output: Tensor | None = None
        self.input_gradient: Tensor | None = None
        self.gradient: Tensor | None = None
        self.received = self.operator

    def receive(self, x: Tensor) -> None:
        self.received = x.view(self.in_shape)

    def forward(self, x: Tensor) -> Tensor:
        x = self.received = x.view(self.in_shape)
        if self.output is None:
            self.output = x.new_empty(self.out_shape)
        if self.left == 1:
            return torch.mm(self.operator, x, out=self.output)
        if self.right == 1:
            return torch.mm(x, self.operator.T, out=self.output)
        return torch.bmm(self.expanded, x, out=self.output)

    def forward_into(self, x: Tensor, out: Tensor) -> Tensor:
        x = self.received = x.view(self.in_shape)
        if self.left == 1:
            out.view(self.out_shape).addmm_(self.operator, x)
        elif self.right == 1:
            out.view(self.out_shape).addmm_(x, self.operator.T)
        else:
            out.view(self.out_shape).baddbmm_(self.expanded, x)
        return out

    def add_gradient(self, gradient: Tensor) -> None:
        gradient = gradient.view(self.out_shape)
        if self.gradient is None:
            batch = (self.left,) if len(self.in_shape) == 3 and not self.is_large else ()
            self.gradient = gradient.new_zeros(*batch, self.rows, self.columns)
        if self.left == 1:
            self.gradient.addmm_(gradient, self.received.T)
        elif self.right == 1:
            self.gradient.addmm_(gradient.T, self.received)
        elif self.is_large:
            self.gradient.addbmm_(gradient, self.received.transpose(1, 2))
        else:
            self.gradient.baddbmm_(gradient, self.received.transpose(1, 2))

    def to_input(self, gradient: Tensor) -> Tensor:
        gradient = gradient.view(self.out_shape)
        if self.input_gradient is None:
            self.input_gradient = gradient.new_empty(self.in_shape)
        if self.left == 1:
            return torch.mm(self.operator.T, gradient, out=self.input_gradient)
        if self.right == 1:
            return torch.mm(gradient, self.operator, out=self.input_gradient)
        return torch.bmm(self.expanded_t, gradient, out=self.input_gradient)

    def core_gradient(self) -> Tensor:
        rank_left, m, n, rank_right = self.core_shape
        if self.gradient is None:
            return self.operator.new_zeros(self.core_shape)
        total = self.gradient.sum(0) if self.gradient.ndim == 3 else self.gradient
        return total.view(m, rank_right, rank_left, n).permute(2, 0, 3, 1).contiguous()


class _Weight:
    """W of one layout on blocks (n_steps, n_in, batch): one contraction, or one a gate."""

    def __init__(
        self,
        cores: Sequence[Tensor],
        layout: str,
        n_gates: int,
        n_hidden: int,
        n_in: int,
        sizes: tuple[int, int],
    ) -> None:
        n_steps, batch = sizes
        n_blocks = n_gates if layout == "per_gate" else 1
        d = len(cores) // n_blocks
        self.blocks = [_Contraction(cores[k : k + d], n_steps, batch) for k in range(0, len(cores), d)]
        self.layout, self.n_gates, self.n_hidden, self.n_in = layout, n_gates, n_hidden, n_in
        self.n_steps, self.batch = n_steps, batch
        n_rows = n_hidden if layout == "per_gate" else n_gates * n_hidden
        # The rows come out where they belong, unless there is padding between them or another order.
        in_place = layout == "joint" or (layout == "per_gate" and n_steps == 1) or layout == "gate_first"
        self.in_place = in_place and self.blocks[0].n_out == n_rows
        self.padded_x: Tensor | None = None
        self.padded_gradient: Tensor | None = None

    def add_to(self, x: Tensor, gates: Tensor) -> None:
        """Add W x to gates (n_steps, n_gates · n_hidden, batch)."""
        x = self._padded(x)
        for index, block in enumerate(self.blocks):
            if self.in_place:
                block.forward(x, self._rows(gates, index))
            else:
                own = self._gate_view(gates, index)
                own += self._padded_view(block.forward(x))

    def backward(self, x: Tensor, gradient: Tensor, *, to_input: bool = True) -> Tensor | None:
        """As ``_Contraction.backward`` for a gradient (n_steps, n_gates · n_hidden, batch) of the gates."""
        x = self._padded(x)
        total: Tensor | None = None
        for index, block in enumerate(self.blocks):
            if self.in_place:
                own = self._rows(gradient, index)
            else:
                if self.padded_gradient is None:
                    self.padded_gradient = gradient.new_zeros(self.n_steps, block.n_out, self.batch)
                own = self.padded_gradient
                self._padded_view(own).copy_(self._gate_view(gradient, index))
            part = block.backward(x, own, to_input=to_input)
            if part is not None:
                total = part if total is None else total.add_(part)
        return None if total is None else total[:, : self.n_in]

    def core_gradients(self) -> list[Tensor]:
        return [stage.core_gradient() for block in self.blocks for stage in block.stages]

    def _padded(self, x: Tensor) -> Tensor:
        if self.blocks[0].n_in == self.n_in:
            return x
        if self.padded_x is None:
            self.padded_x = x.new_zeros(self.n_steps, self.blocks[0].n_in, self.batch)
        self.padded_x[:, : self.n_in] = x
        return self.padded_x

    def _rows(self, gates: Tensor, index: int) -> Tensor:
        if self.layout != "per_gate":
            return gates
        return gates[:, index * self.n_hidden : (index + 1) * self.n_hidden]

    def _gate_view(self, gates: Tensor, index: int) -> Tensor:
        """(n_steps, gates of this block, n_hidden, batch)."""
        gates = gates.view(self.n_steps, self.n_gates, self.n_hidden, self.batch)
        return gates[:, index : index + 1] if self.layout == "per_gate" else gates

    def _padded_view(self, padded: Tensor) -> Tensor:
        """The same of a block's own rows (n_steps, ∏ m_k, batch)."""
        if self.layout == "joint":
            padded = padded[:, : self.n_gates * self.n_hidden]
            return padded.view(self.n_steps, self.n_gates, self.n_hidden, self.batch)
        if self.layout == "gate_last":
            by_row = padded.view(self.n_steps, -1, self.n_gates, self.batch).transpose(1, 2)
        else:
            n_gates = 1 if self.layout == "per_gate" else self.n_gates
            by_row = padded.view(self.n_steps, n_gates, -1, self.batch)
        return by_row[:, :, : self.n_hidden]


class _LSTM:
    """i, f, o = sigmoid, g = tanh;  c' = f c + i g;  h' = o tanh(c').  A step's memory is c'."""

    n_gates = 4

    def __init__(self, h0: Tensor, bias: Tensor | None) -> None:
        self.n = h0.shape[0]
        self.input_bias = bias
        self.tanh_c, self.flow = torch.empty_like(h0), torch.empty_like(h0)

    def forward(
        self, weight: _Weight, gates: Tensor, h: Tensor, memory: Tensor, h_out: Tensor, memory_out: Tensor
    ) -> None:
        """Add W h to the gates, activate them, and write h' and c'; ``memory`` is c."""
        weight.add_to(h.unsqueeze(0), gates.unsqueeze(0))
        i, f, g, o = gates.view(4, self.n, -1).unbind(0)
        g.mul_(2)
        gates.sigmoid_()
        g.mul_(2).sub_(1)  # see _tanh
        torch.mul(f, memory, out=memory_out).addcmul_(i, g)
        torch.mul(o, _tanh(memory_out, out=self.tanh_c), out=h_out)

    def backward(
        self,
        weight: _Weight,
        gates: Tensor,
        h: Tensor,
        memory: Tensor,
        memory_out: Tensor,
        dh: Tensor,
        dc: Tensor,
        dgates: Tensor,
        n_active: int,
    ) -> Tensor:
        """Fill dgates, those before the activations; dc becomes that of the step before, dh's is returned."""
        n = self.n
        i, f, g, o = gates.view(4, n, -1).unbind(0)
        di, df, dg, do = dgates.view(4, n, -1).unbind(0)
        tanh_c = _tanh(memory_out, out=self.tanh_c)
        torch.mul(dh, tanh_c, out=do)
        flow = torch.mul(dh, o, out=self.flow)
        dc.add_(_tanh_backward(flow, tanh_c, grad_input=flow))
        torch.mul(dc, g, out=di)
        torch.mul(dc, memory, out=df)
        torch.mul(dc, i, out=dg)
        dc.mul_(f)
        _sigmoid_backward(dgates[: 2 * n], gates[: 2 * n], grad_input=dgates[: 2 * n])
        _tanh_backward(dg, g, grad_input=dg)
        _sigmoid_backward(do, o, grad_input=do)
        _silence(dgates, n_active)
        return _hidden_gradient(weight, h, dgates)

    def bias_gradient(self, per_gate: Tensor) -> Tensor:
        """Of the bias, from the gradients of the gates summed over steps and batch."""
        return per_gate


class _GRU:
    """r, z = sigmoid, n = tanh(W_in x + b_in + r m);  h' = n + z (h - n).  A step's memory is m = W_hn h + b_hn."""

    n_gates = 3

    def __init__(self, h0: Tensor, bias: Tensor | None) -> None:
        self.n = h0.shape[0]
        self.input_bias = None if bias is None else bias[: 3 * self.n]
        self.hidden_bias = None if bias is None else bias[3 * self.n :, None]
        self.hidden = h0.new_empty(3 * self.n, h0.shape[1])  # W_hh h, and its gradient
        self.carried = torch.empty_like(h0)
        self.candidate_gradient = torch.zeros_like(h0)  # summed over the steps, for b_hn

    def forward(
        self, weight: _Weight, gates: Tensor, h: Tensor, memory: Tensor, h_out: Tensor, memory_out: Tensor
    ) -> None:
        """Activate the gates and write h' and m; ``memory``, the step before's, is not looked at."""
        n = self.n
        hidden, z = self.hidden, gates[n : 2 * n]
        hidden.zero_()
        if self.hidden_bias is not None:
            hidden[2 * n :] = self.hidden_bias
        weight.add_to(h.unsqueeze(0), hidden.unsqueeze(0))
        gates[: 2 * n].add_(hidden[: 2 * n]).sigmoid_()
        memory_out.copy_(hidden[2 * n :])
        candidate = gates[2 * n :].addcmul_(gates[:n], memory_out)
        _tanh(candidate, out=candidate)
        torch.lerp(candidate, h, z, out=h_out)

    def backward(
        self,
        weight: _Weight,
        gates: Tensor,
        h: Tensor,
        memory: Tensor,
        memory_out: Tensor,
        dh: Tensor,
        dc: Tensor,
        dgates: Tensor,
        n_active: int,
    ) -> Tensor:
        """Fill dgates, those of the input's part before the activations; return the step before's dh."""
        n = self.n
        r, z, candidate = gates.view(3, n, -1).unbind(0)
        dr, dz, dn = dgates.view(3, n, -1).unbind(0)
        torch.mul(dh, z, out=self.carried)
        torch.sub(dh, self.carried, out=dn)
        torch.sub(h, candidate, out=dz).mul_(dh)
        _tanh_backward(dn, candidate, grad_input=dn)
        torch.mul(dn, memory_out, out=dr)
        _sigmoid_backward(dgates[: 2 * n], gates[: 2 * n], grad_input=dgates[: 2 * n])
        _silence(dgates, n_active)
        self.hidden[: 2 * n] = dgates[: 2 * n]
        through_candidate = torch.mul(dn, r, out=self.hidden[2 * n :])
        self.candidate_gradient += through_candidate
        return _hidden_gradient(weight, h, self.hidden).add_(self.carried)

    def bias_gradient(self, per_gate: Tensor) -> Tensor:
        """Of the bias, from the gradients of the gates summed over steps and batch."""
        return torch.cat([per_gate, self.candidate_gradient.sum(1)])


_CELLS: dict[str, type[_LSTM] | type[_GRU]] = {"lstm": _LSTM, "gru": _GRU}


def _tanh(x: Tensor, out: Tensor) -> Tensor:
    """tanh x = 2 sigmoid(2x) - 1, four times faster than ``torch.tanh`` on a CPU and 2e-7 from it in float32."""
    return torch.mul(x, 2, out=out).sigmoid_().mul_(2).sub_(1)


def _hidden_gradient(weight: _Weight, h: Tensor, gradient: Tensor) -> Tensor:
    dh = weight.backward(h.unsqueeze(0), gradient.unsqueeze(0))
    return dh.squeeze(0)  # type: ignore[union-attr]


def _forward(
    recurrence: Recurrence,
    save: bool,
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    bias: Tensor | None,
    cores: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h of all steps, final h, final c, and if ``save`` the gates and memories of all steps, else nothing."""
    active, reverse, n_input = recurrence.active, recurrence.reverse, recurrence.n_input_cores
    n_steps, n_in, batch = x.shape
    n_hidden = h0.shape[0]
    kind = _CELLS[recurrence.cell](h0, bias)
    n_rows = kind.n_gates * n_hidden
    length = _chunk_length(n_rows * batch, n_steps)
    kept = n_steps if save else length
    gates, memories = x.new_empty(kept, n_rows, batch), x.new_empty(kept, n_hidden, batch)
    outputs = x.new_empty(n_steps, n_hidden, batch)
    geometry = (kind.n_gates, n_hidden)
    hidden = _Weight(cores[n_input:], recurrence.layout, *geometry, n_hidden, (1, batch))
    inputs: dict[int, _Weight] = {}
    h, memory = h0, h0 if c0 is None else c0
    for start, stop in _chunks(n_steps, length, reverse):
        size, offset = stop - start, start if save else 0
        chunk = gates[offset : offset + size]
        if kind.input_bias is None:
            chunk.zero_()
        else:
            chunk.copy_(kind.input_bias[:, None])
        if size not in inputs:
            inputs[size] = _Weight(cores[:n_input], recurrence.input_layout, *geometry, n_in, (size, batch))
        inputs[size].add_to(x[start:stop], chunk)
        for t in _order(start, stop, reverse):
            n_active = active[t] if active else batch
            h_out, memory_out = outputs[t], memories[t - start + offset]
            frozen = None if n_active == batch else memory[:, n_active:].clone()
            kind.forward(hidden, chunk[t - start], h, memory, h_out, memory_out)
            if frozen is not None:
                h_out[:, n_active:] = h[:, n_active:]
                memory_out[:, n_active:] = frozen
            h, memory = h_out, memory_out
    c_n = x.new_empty(0) if c0 is None else memory.clone()
    nothing = x.new_empty(0)
    return outputs, h.clone(), c_n, gates if save else nothing, memories if save else nothing.clone()


def _backward(
    recurrence: Recurrence,
    to_input: bool,
    dh_all: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    bias: Tensor | None,
    outputs: Tensor,
    gates: Tensor,
    memories: Tensor,
    cores: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Gradients of x (nothing unless ``to_input``), h0, c0, bias (nothing without one) and the cores."""
    active, reverse, n_input = recurrence.active, recurrence.reverse, recurrence.n_input_cores
    n_steps, n_in, batch = x.shape
    n_hidden = h0.shape[0]
    kind = _CELLS[recurrence.cell](h0, bias)
    n_rows = kind.n_gates * n_hidden
    length = _chunk_length(n_rows * batch, n_steps)
    dgates = x.new_empty(length, n_rows, batch)
    dx = torch.empty_like(x) if to_input else x.new_empty(0)
    dgates_sum = x.new_zeros(n_rows, batch)
    geometry = (kind.n_gates, n_hidden)
    hidden = _Weight(cores[n_input:], recurrence.layout, *geometry, n_hidden, (1, batch))
    inputs: dict[int, _Weight] = {}
    dh_t = torch.empty_like(h0)
    dh = torch.zeros_like(h0) if dh_n is None else dh_n.clone()
    dc = torch.zeros_like(h0) if dc_n is None else dc_n.clone()
    for start, stop in _chunks(n_steps, length, not reverse):
        size = stop - start
        for t in _order(start, stop, not reverse):
            n_active = active[t] if active else batch
            before = t + 1 if reverse else t - 1
            at_start = not 0 <= before < n_steps
            h = h0 if at_start else outputs[before]
            memory = memories[before] if not at_start else (h0 if c0 is None else c0)
            if dh_all is not None:
                dh.add_(dh_t.copy_(dh_all[t]))  # a transposed copy is fast, a transposed sum is not
            frozen = None if n_active == batch else (dh[:, n_active:].clone(), dc[:, n_active:].clone())
            dh = kind.backward(hidden, gates[t], h, memory, memories[t], dh, dc, dgates[t - start], n_active)
            if frozen is not None:
                dh[:, n_active:], dc[:, n_active:] = frozen
        if size not in inputs:
            inputs[size] = _Weight(cores[:n_input], recurrence.input_layout, *geometry, n_in, (size, batch))
        chunk = dgates[:size]
        part = inputs[size].backward(x[start:stop], chunk, to_input=to_input)
        if part is not None:
            dx[start:stop] = part
        for step in chunk.unbind(0):  # in cache, and faster than one sum over two axes
            dgates_sum += step
    dbias = x.new_empty(0) if bias is None else kind.bias_gradient(dgates_sum.sum(1))
    parts = [weight.core_gradients() for weight in inputs.values()]
    dcores = [torch.stack(same).sum(0) for same in zip(*parts, strict=True)]
    return dx, dh.clone(), dc, dbias, [*dcores, *hidden.core_gradients()]


def _silence(gradient: Tensor, n_active: int) -> None:
    if n_active < gradient.shape[1]:
        gradient[:, n_active:] = 0


def _chunk_length(numbers_per_step: int, n_steps: int) -> int:
    return max(1, min(n_steps, CHUNK_NUMBERS // max(numbers_per_step, 1)))


def _chunks(n_steps: int, length: int, reverse: bool) -> Iterator[tuple[int, int]]:
    starts = range(0, n_steps, length)
    for start in reversed(starts) if reverse else starts:
        yield start, min(start + length, n_steps)


def _order(start: int, stop: int, reverse: bool) -> range:
    return range(stop - 1, start - 1, -1) if reverse else range(start, stop)


# In eager mode autograd functions join the two, and torch.func sees through them.


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        recurrence: Recurrence,
        save: bool,
        x: Tensor,
        h0: Tensor,
        c0: Tensor | None,
        bias: Tensor | None,
        *cores: Tensor,
    ) -> tuple[Tensor, ...]:
        return _forward(recurrence, save, x, h0, c0, bias, cores)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        recurrence, _, x, h0, c0, bias, *cores = inputs
        outputs, _, _, gates, memories = output
        ctx.mark_non_differentiable(gates, memories)
        ctx.recurrence = recurrence
        _keep(ctx, (c0, bias), (x, h0, outputs, gates, memories, *cores))

    @staticmethod
    def backward(ctx: Any, dh_all: Tensor | None, dh_n: Any, dc_n: Any, *_: Any) -> tuple[Any, ...]:
        c0, bias, x, h0, *kept_and_cores = _kept(ctx)
        to_input = ctx.needs_input_grad[2]
        dx, dh0, dc0, dbias, *dcores = _SequenceBackward.apply(  # type: ignore[no-untyped-call]
            ctx.recurrence, to_input, dh_all, dh_n, dc_n, x, h0, c0, bias, *kept_and_cores
        )
        own = (dx if to_input else None, dh0, None if c0 is None else dc0, None if bias is None else dbias)
        return (None, None, *own, *dcores)

    @staticmethod
    def vmap(info: Any, axes: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        return _one_by_one(_Sequence, info, axes, arguments)


class _SequenceBackward(torch.autograd.Function):
    @staticmethod
    def forward(recurrence: Recurrence, to_input: bool, *tensors: Any) -> tuple[Tensor, ...]:
        dh_all, dh_n, dc_n, x, h0, c0, bias, outputs, gates, memories, *cores = tensors
        saved = (x, h0, c0, bias, outputs, gates, memories, cores)
        with torch.autocast(x.device.type, enabled=False):
            *gradients, dcores = _backward(recurrence, to_input, dh_all, dh_n, dc_n, *saved)
        return (*gradients, *dcores)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        raise RuntimeError("a contracted recurrent layer is differentiable once, not twice")

    @staticmethod
    def vmap(info: Any, axes: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        return _one_by_one(_SequenceBackward, info, axes, arguments)


def _one_by_one(
    function: Any, info: Any, axes: tuple[Any, ...], arguments: tuple[Any, ...]
) -> tuple[Any, Any]:
    """A vmap rule: run the function once a member of the batch and stack what it returns."""
    runs = [
        function.apply(
            *(
                argument if axis is None else argument.select(axis, index).contiguous()
                for argument, axis in zip(arguments, axes, strict=True)
            )
        )
        for index in range(info.batch_size)
    ]
    stacked = tuple(torch.stack(same) for same in zip(*runs, strict=True))
    return stacked, (0,) * len(stacked)


def _keep(ctx: Any, optional: tuple[Tensor | None, ...], tensors: tuple[Tensor, ...]) -> None:
    """Save tensors for backward; what may be None is kept apart, since a compiled graph saves only tensors."""
    ctx.is_given = [t is not None for t in optional]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*[t for t in optional if t is not None], *tensors)


def _kept(ctx: Any) -> list[Any]:
    saved = list(ctx.saved_tensors)
    optional = [saved.pop(0) if is_given else None for is_given in ctx.is_given]
    return [*optional, *saved]


# Traced by torch.compile, the same two are operators that it does not look into.


@torch.library.custom_op("vagitus::tt_sequence", mutates_args=())
def _forward_op(
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    bias: Tensor | None,
    cores: Sequence[Tensor],
    n_input_cores: int,
    cell: str,
    layout: str,
    input_layout: str,
    active: Sequence[int],
    reverse: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    recurrence = Recurrence(cell, layout, input_layout, n_input_cores, tuple(active), reverse)
    return _forward(recurrence, save, x, h0, c0, bias, cores)


@torch.library.custom_op("vagitus::tt_sequence_backward", mutates_args=())
def _backward_op(
    dh_all: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    bias: Tensor | None,
    outputs: Tensor,
    gates: Tensor,
    memories: Tensor,
    cores: Sequence[Tensor],
    n_input_cores: int,
    cell: str,
    layout: str,
    input_layout: str,
    active: Sequence[int],
    reverse: bool,
    to_input: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    recurrence = Recurrence(cell, layout, input_layout, n_input_cores, tuple(active), reverse)
    saved = (x, h0, c0, bias, outputs, gates, memories, cores)
    with torch.autocast(x.device.type, enabled=False):
        return _backward(recurrence, to_input, dh_all, dh_n, dc_n, *saved)


@_forward_op.register_fake
def _(
    x: Tensor, h0: Tensor, c0: Tensor | None, bias: Tensor | None, cores: Sequence[Tensor], *settings: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    cell, save = settings[1], settings[-1]
    n_steps, _, batch = x.shape
    n_hidden = h0.shape[0]
    kept = (n_steps, _CELLS[cell].n_gates * n_hidden, batch), (n_steps, n_hidden, batch)
    gates, memories = (x.new_empty(size if save else (0,)) for size in kept)
    c_n = x.new_empty(0) if c0 is None else torch.empty_like(c0)
    return x.new_empty(n_steps, n_hidden, batch), torch.empty_like(h0), c_n, gates, memories


@_backward_op.register_fake
def _(
    dh_all: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    bias: Tensor | None,
    outputs: Tensor,
    gates: Tensor,
    memories: Tensor,
    cores: Sequence[Tensor],
    *settings: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    nothing, to_input = x.new_empty(0), settings[-1]
    dx = torch.empty_like(x) if to_input else nothing
    dbias = nothing if bias is None else torch.empty_like(bias)
    dcores = [core.new_empty(core.shape) for core in cores]
    return dx, torch.empty_like(h0), torch.empty_like(h0), dbias, dcores


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, h0, c0, bias, cores, *settings, _ = inputs
    outputs, _, _, gates, memories = output
    ctx.settings = settings
    _keep(ctx, (c0, bias), (x, h0, outputs, gates, memories, *cores))


def _op_gradient(ctx: Any, dh_all: Tensor | None, dh_n: Any, dc_n: Any, *_: Any) -> tuple[Any, ...]:
    c0, bias, x, h0, outputs, gates, memories, *cores = _kept(ctx)
    to_input = ctx.needs_input_grad[0]
    dx, dh0, dc0, dbias, dcores = _backward_op(
        dh_all, dh_n, dc_n, x, h0, c0, bias, outputs, gates, memories, cores, *ctx.settings, to_input
    )
    own = (dx if to_input else None, dh0, None if c0 is None else dc0, None if bias is None else dbias)
    nothing = [[None] * len(s) if isinstance(s, list | tuple) else None for s in ctx.settings]
    return (*own, dcores, *nothing, None)


_forward_op.register_autograd(_op_gradient, setup_context=_setup)
