"""What is done to an ONNX graph between torch's exporter and the file: made smaller, and quicker to run.

A graph is that of ``export``: inputs ``waveform`` and, where the model normalises by statistics, ``mean`` and perhaps
``std``; outputs ``logits`` and the statistics. Models are onnx.ModelProto, changed in place. Torch has no part in it.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

FILLED = (
    "Expand",
    "CastLike",
    "Cast",
    "Reshape",
)  # operators that hand on the one number of their first input
NETWORK, NOTHING = "network", "nothing"  # the two branches of a gate


def drop_fillers(model: Any) -> None:
    """Put constants where the exporter computes them: biases of zeros, scales of ones.

    Computed anew in every run, they keep onnxruntime from an 8-bit convolution.
    """
    from onnx import numpy_helper

    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and _filled(node.input[2], producers, stored) == 0:
            del node.input[2]
        elif node.op_type == "BatchNormalization" and node.input[3] in stored:
            (n_channels,) = stored[node.input[3]].dims
            for place in (1, 2):  # scale, shift
                value = _filled(node.input[place], producers, stored)
                if value is None:
                    continue
                name = f"{n_channels} times {value:g}"
                if name not in stored:
                    values = np.full(n_channels, value, np.float32)
                    graph.initializer.append(numpy_helper.from_array(values, name))
                    stored[name] = graph.initializer[-1]
                node.input[place] = name
    unused = [node for node in graph.node if node.op_type in FILLED]
    while unused:
        used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        unused = [node for node in graph.node if not used & set(node.output)]
        for node in unused:
            graph.node.remove(node)


def _filled(name: str, producers: dict[str, Any], stored: dict[str, Any]) -> float | None:
    """The number that a computed tensor is full of; None where it is not, or is stored."""
    from onnx import helper, numpy_helper

    if name not in producers:
        return None
    while name in producers and producers[name].op_type in FILLED:
        name = producers[name].input[0]
    values = np.empty(0)
    if name in stored:
        values = numpy_helper.to_array(stored[name])
    elif name in producers and producers[name].op_type == "Constant":
        (found,) = map(helper.get_attribute_value, producers[name].attribute)
        values = np.asarray(numpy_helper.to_array(found) if hasattr(found, "raw_data") else found)
    return float(values.reshape(1)[0]) if values.size == 1 else None


def gate(model: Any) -> None:
    """Have the network left out where ``mean`` holds a NaN: a run that is for the statistics alone, six times shorter.

    onnxruntime 1.32 computes every node whatever is fetched; RunOptions.only_execute_path_to_fetches changed neither
    the time nor the nodes of its profile. A graph without the input ``mean`` stays as it is.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    heard = {value.name for value in graph.input[1:]}
    if not heard:
        return
    inside = []
    for node in graph.node:
        if heard & set(node.input):
            heard |= set(node.output)
            inside.append(node)
    wanted = {name for node in inside for name in node.input}
    # An 8-bit weight must be by its product, or onnxruntime makes it a float before it looks inside.
    inside = [
        n
        for n in graph.node
        if n.op_type == "DequantizeLinear" and wanted & set(n.output) and n not in inside
    ] + inside
    network = [type(node).FromString(node.SerializeToString()) for node in inside]
    for node in inside:
        graph.node.remove(node)
    for node in network:
        node.input[:] = ["scored" if name == "logits" else name for name in node.input]
        node.output[:] = ["scored" if name == "logits" else name for name in node.output]
    shape = graph.output[0].type.tensor_type.shape
    n_classes = numpy_helper.from_array(np.array([shape.dim[1].dim_value], np.int64))
    unknown = numpy_helper.from_array(np.array([np.nan], np.float32))
    nothing = [
        helper.make_node("Shape", ["waveform"], ["n_batch"], start=0, end=1),
        helper.make_node("Constant", [], ["n_classes"], value=n_classes),
        helper.make_node("Concat", ["n_batch", "n_classes"], ["unscored_shape"], axis=0),
        helper.make_node("ConstantOfShape", ["unscored_shape"], ["unscored"], value=unknown),
    ]

    def branch(nodes: list[Any], name: str, output: str) -> Any:
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [value])

    graph.node.extend(
        [
            helper.make_node("ReduceSum", ["mean"], ["sum_of_mean"], keepdims=0),
            helper.make_node("IsNaN", ["sum_of_mean"], ["is_for_statistics"]),
            helper.make_node(
                "If",
                ["is_for_statistics"],
                ["logits"],
                then_branch=branch(nothing, NOTHING, "unscored"),
                else_branch=branch(network, NETWORK, "scored"),
            ),
        ]
    )


def ungate(model: Any) -> None:
    """Undo ``gate``; a graph without a gate stays as it is."""
    graph = model.graph
    for node in list(graph.node):
        network = [a.g for a in node.attribute if node.op_type == "If" and a.g.name == NETWORK]
        if not network:
            continue
        inside = [type(inner).FromString(inner.SerializeToString()) for inner in network[0].node]
        for inner in inside:
            inner.input[:] = ["logits" if name == "scored" else name for name in inner.input]
            inner.output[:] = ["logits" if name == "scored" else name for name in inner.output]
        for gone in [
            n for n in graph.node if n is node or n.output[0] in ("sum_of_mean", "is_for_statistics")
        ]:
            graph.node.remove(gone)
        graph.node.extend(inside)
        return


def strip(model: Any) -> None:
    """Take out what nothing reads: stack traces with paths of this machine, shapes, repetitions, long names."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    kept = {value.name for value in (*graph.initializer, *graph.input, *graph.output)}
    short: dict[str, str] = {}
    seen: dict[tuple[Any, ...], Any] = {}
    nodes: list[Any] = []
    for node in graph.node:
        node.input[:] = [short.get(name, name) for name in node.input]
        outputs = [name for name in node.output if name not in kept]
        if len(outputs) == len(node.output):
            if node.op_type == "Identity" or (node.op_type == "Concat" and len(node.input) == 1):
                short[node.output[0]] = node.input[0]
                continue
            # The exporter writes the same number and the same shape again for every use.
            attributes = sorted(attribute.SerializeToString() for attribute in node.attribute)
            twin = seen.setdefault((node.op_type, node.domain, *node.input, *attributes), node)
            if twin is not node:
                short.update(zip(node.output, twin.output, strict=True))
                continue
        for name in filter(None, outputs):
            short[name] = f"v{len(short)}"
        node.output[:] = [short.get(name, name) for name in node.output]
        node.name = ""
        nodes.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def fold_transposed_weights(model: Any) -> None:
    """Store a weight as the product takes it, where the graph transposes it first."""
    from onnx import numpy_helper

    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type != "Transpose" or node.input[0] not in stored:
            continue
        order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
        turned = np.ascontiguousarray(numpy_helper.to_array(stored[node.input[0]]).transpose(order))
        graph.initializer.append(numpy_helper.from_array(turned, f"{node.input[0]}.{node.output[0]}"))
        for user in graph.node:
            user.input[:] = [
                graph.initializer[-1].name if name == node.output[0] else name for name in user.input
            ]
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def quantisable(model: Any, path: Path) -> list[str]:
    """Names of the nodes that multiply something heard by a weight of the network, but for the first.

    The first reads the features, whose rows differ in spread fifty-fold in an MFCC: one scale for all of
    them would leave the small ones a few of the 256 steps.
    """
    weights = {
        tensor.name: math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.name.startswith("network.") and len(tensor.dims) > 1
    }
    for position, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}{position}"  # the quantiser goes by names
    heard, names, n_quantised = {value.name for value in model.graph.input}, [], 0
    for node in model.graph.node:
        if not heard & set(node.input):
            continue
        heard |= set(node.output)
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights:
            names.append(node.name)
            n_quantised += weights[node.input[1]]
    names = names[1:]
    if 2 * n_quantised < sum(weights.values()):
        raise ValueError(
            f"{path}: {n_quantised} of {sum(weights.values())} weights are in convolutions and linear layers, the "
            "others would stay float; keep the float file, or compress the model before its export"
        )
    return names
