"""The nearest code of every row: the search of vector quantization, certified, without a matrix of distances."""

from dvae_kernels.ops.nearest_code.formulas import METRICS, MetricName
from dvae_kernels.ops.nearest_code.op import NearestCode, nearest_code, nearest_code_scores

__all__ = ["METRICS", "MetricName", "NearestCode", "nearest_code", "nearest_code_scores"]
