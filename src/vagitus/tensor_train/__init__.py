"""Tensor trains: layers whose weights are kept as the small cores of a TT-matrix, trained end to end.

``shape`` chooses factors and ranks and counts, ``matrix`` holds and rebuilds and decomposes, ``layers`` and
``recurrent`` stand in for torch's own, ``sequence`` runs a recurrent layer without its weight matrices,
``compress`` makes a trained model small, by tensor trains and by their rivals.
"""

from vagitus.tensor_train.compress import (
    LayerCount,
    LayerPlan,
    Plan,
    RankSearch,
    count_parameters,
    eligible,
    keep_zeros,
    layer_counts,
    pack,
    packed_bytes,
    prune,
    retensorize,
    search_ranks,
    tensorize,
    unpack,
)
from vagitus.tensor_train.layers import TTConv1d, TTConv2d, TTEmbedding, TTLinear, TTMultiheadAttention
from vagitus.tensor_train.matrix import Counts, TTMatrix, effective_rank, tt_round, tt_svd
from vagitus.tensor_train.recurrent import TTGRU, TTLSTM
from vagitus.tensor_train.shape import TTShape, balanced_factors, tt_shape

__all__ = [
    "TTGRU",
    "TTLSTM",
    "Counts",
    "LayerCount",
    "LayerPlan",
    "Plan",
    "RankSearch",
    "TTConv1d",
    "TTConv2d",
    "TTEmbedding",
    "TTLinear",
    "TTMatrix",
    "TTMultiheadAttention",
    "TTShape",
    "balanced_factors",
    "count_parameters",
    "effective_rank",
    "eligible",
    "keep_zeros",
    "layer_counts",
    "pack",
    "packed_bytes",
    "prune",
    "retensorize",
    "search_ranks",
    "tensorize",
    "tt_round",
    "tt_shape",
    "tt_svd",
    "unpack",
]
