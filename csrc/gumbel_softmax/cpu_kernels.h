// The Gumbel-softmax kernels, written once over the SIMD layer. Included once per target by foreach_target.h.

#ifndef DVAE_TARGET  // for an editor
#include "gumbel_softmax/cpu.h"
#include "simd/editor.h"
#endif

template <class F>
void soft_tiles(const SoftArgs& args, int64_t begin, int64_t end) {
  const int64_t columns = args.tiles.columns;
  RowWeights<F> weights(args.tiles, args.noise, args.inverse_tau);
  RowTensor<F> logits(args.logits, args.logits_strides, columns, args.tiles.tile_rows);
  RowTensor<F> sample(args.sample, args.sample_strides, columns, args.tiles.tile_rows);
  RowOutput<F, Sample<F>> output(weights, !sample.in_place());
  for_tiles(args.tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    logits.open(outer, inner, rows, true);
    sample.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      const auto number = static_cast<uint32_t>(args.row_offset + row + i);
      weights.template compute<Want::weights>(logits.row(i), nullptr, number, output);
      output.put(RowWriter<F>(sample.row(i), args.stream && sample.in_place()), Sample<F>());
    }
    sample.close(rows);
  });
  output.flush();
  if (args.stream) fence_streams();
}

template <class F>
void argmax_tiles(const ArgmaxArgs& args, int64_t begin, int64_t end) {
  const int64_t columns = args.tiles.columns;
  RowArgmax<F> argmax(args.tiles, args.noise);
  RowTensor<F> logits(args.logits, args.logits_strides, columns, args.tiles.tile_rows);
  for_tiles(args.tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    logits.open(outer, inner, rows, true);
    for (int i = 0; i < rows; ++i) {
      args.indices[row + i] = argmax.compute(logits.row(i), static_cast<uint32_t>(args.row_offset + row + i));
    }
  });
}

template <class F>
void hard_tiles(const HardArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = args.tiles.columns;
  RowArgmax<F> argmax(args.tiles, args.noise);
  RowTensor<F> logits(args.logits, args.logits_strides, columns, args.tiles.tile_rows);
  RowTensor<F> sample(args.sample, args.sample_strides, columns, args.tiles.tile_rows);
  for_tiles(args.tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    logits.open(outer, inner, rows, true);
    sample.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      Scalar* const marks = sample.row(i);
      const RowWriter<F> writer(marks, args.stream && sample.in_place());
      const auto fill = [=](int64_t from, int64_t to, F value) {
        writer.put(from, std::min(to, columns), [=](int64_t, auto) { return value; });
      };
      // zeros are written while integers are drawn
      const int64_t index = argmax.compute(
          logits.row(i), static_cast<uint32_t>(args.row_offset + row + i),
          [=](int64_t from, int64_t to) { fill(from, to, F(0)); });
      if (index >= 0) marks[index] = 1;
      if (index == kNan) fill(0, columns, F(std::numeric_limits<Scalar>::quiet_NaN()));
      if (args.indices != nullptr) args.indices[row + i] = index;
    }
    sample.close(rows);
  });
  if (args.stream) fence_streams();
}

template <class F>
void recompute_backward_tiles(const RecomputeBackwardArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = args.tiles.columns;
  RowWeights<F> weights(args.tiles, args.noise, args.inverse_tau);
  RowTensor<F> grad(args.grad, args.grad_strides, columns, args.tiles.tile_rows);
  RowTensor<F> logits(args.logits, args.logits_strides, columns, args.tiles.tile_rows);
  RowTensor<F> dlogits(args.dlogits, args.dlogits_strides, columns, args.tiles.tile_rows);
  auto* dtau_rows = static_cast<Scalar*>(args.dtau_rows.data);
  const F inverse_tau(static_cast<Scalar>(args.inverse_tau));
  RowOutput<F, LogitGradient<F>> output(weights, !(dlogits.in_place() && grad.in_place()));
  for_tiles(args.tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    grad.open(outer, inner, rows, true);
    logits.open(outer, inner, rows, true);
    dlogits.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      const auto number = static_cast<uint32_t>(args.row_offset + row + i);
      Sums<double> sums;
      if (dtau_rows != nullptr) {
        sums = weights.template compute<Want::grad_and_tau>(logits.row(i), grad.row(i), number, output);
        // -sum(dlogits * log y) with log y = z ln 2 up to a constant of the row
        dtau_rows[row + i] = static_cast<Scalar>(
            -(sums.grad_exponent - sums.grad * sums.exponent) * kLn2<double> * args.inverse_tau);
      } else {
        sums = weights.template compute<Want::grad>(logits.row(i), grad.row(i), number, output);
      }
      output.put(
          RowWriter<F>(dlogits.row(i), args.stream && dlogits.in_place()),
          {grad.row(i), F(static_cast<Scalar>(sums.grad)), inverse_tau});
    }
    dlogits.close(rows);
  });
  output.flush();
  if (args.stream) fence_streams();
}

template <class F>
void backward_tiles(const BackwardArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = args.tiles.columns;
  RowTensor<F> grad(args.grad, args.grad_strides, columns, args.tiles.tile_rows);
  RowTensor<F> sample(args.sample, args.sample_strides, columns, args.tiles.tile_rows);
  RowTensor<F> dlogits(args.dlogits, args.dlogits_strides, columns, args.tiles.tile_rows);
  const F inverse_tau(static_cast<Scalar>(args.inverse_tau));
  for_tiles(args.tiles, begin, end, [&](int64_t, int64_t outer, int64_t inner, int rows) {
    grad.open(outer, inner, rows, true);
    sample.open(outer, inner, rows, true);
    dlogits.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      const Scalar *g = grad.row(i), *y = sample.row(i);
      // A sample rounded to half precision does not sum to one; the mean under it must be a mean all the same, or the
      // gradient of a nearly one-hot row is lost in the difference.
      const auto [total, dot] = sums_by_runs<F, 2>(columns, [=](int64_t j, auto count, F* sums) {
        const F yj = load_lanes<F>(y + j, count);
        sums[0] = sums[0] + yj;
        sums[1] = fma(yj, load_lanes<F>(g + j, count), sums[1]);
      });
      const LogitGradient<F> gradient{g, F(static_cast<Scalar>(total == 0 ? 0 : dot / total)), inverse_tau};
      const RowWriter<F> writer(dlogits.row(i), args.stream && dlogits.in_place());
      writer.put(0, columns, [=](int64_t j, auto count) {
        return gradient(j, count, load_lanes<F>(y + j, count), F(1));
      });
    }
    dlogits.close(rows);
  });
  if (args.stream) fence_streams();
}

#include "gumbel_softmax/cpu_columns.h"

void gumbel_softmax_soft(const SoftArgs& args, int64_t begin, int64_t end) {
  if (args.logits.type == Storage::float64) return soft_tiles<F64>(args, begin, end);
  args.tiles.interleaved ? soft_columns(args, begin, end) : soft_tiles<F32>(args, begin, end);
}

void gumbel_softmax_argmax(const ArgmaxArgs& args, int64_t begin, int64_t end) {
  if (args.logits.type == Storage::float64) return argmax_tiles<F64>(args, begin, end);
  args.tiles.interleaved ? argmax_columns(args, begin, end) : argmax_tiles<F32>(args, begin, end);
}

void gumbel_softmax_hard(const HardArgs& args, int64_t begin, int64_t end) {
  if (args.logits.type == Storage::float64) return hard_tiles<F64>(args, begin, end);
  args.tiles.interleaved ? hard_columns(args, begin, end) : hard_tiles<F32>(args, begin, end);
}

void gumbel_softmax_backward(const BackwardArgs& args, int64_t begin, int64_t end) {
  if (args.sample.type == Storage::float64) return backward_tiles<F64>(args, begin, end);
  args.tiles.interleaved ? backward_columns(args, begin, end) : backward_tiles<F32>(args, begin, end);
}

void gumbel_softmax_recompute_backward(const RecomputeBackwardArgs& args, int64_t begin, int64_t end) {
  if (args.logits.type == Storage::float64) return recompute_backward_tiles<F64>(args, begin, end);
  args.tiles.interleaved ? recompute_backward_columns(args, begin, end) : recompute_backward_tiles<F32>(args, begin, end);
}
