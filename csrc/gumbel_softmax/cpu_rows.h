// The Gumbel-softmax kernels along the row.

#ifndef DVAE_TARGET  // for an editor
#include "gumbel_softmax/arguments.h"
#include "simd/editor.h"
#endif

template <class F>
void soft_rows(const GumbelSoftmaxArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  RowWeights<F> weights(tiles, args.noise.key, finite_inverse<Scalar>(args.tau.value));
  RowTensor<F> logits(args.rows, 0, tiles), sample(args.rows, 1, tiles);
  RowOutput<F, Sample<F>> output(weights, !sample.in_place());
  for_tiles(tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    logits.open(outer, inner, rows, true);
    sample.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      const auto number = static_cast<uint32_t>(args.noise.row_offset + row + i);
      weights.template compute<Want::weights>(logits.row(i), nullptr, number, output);
      output.put(RowWriter<F>(sample.row(i), tiles.stream && sample.in_place()), Sample<F>());
    }
    sample.close(rows);
  });
  output.flush();
  if (tiles.stream) fence_streams();
}

template <class F>
void argmax_rows(const GumbelSoftmaxArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  RowArgmax<F> argmax(tiles, args.noise.key.read());
  RowTensor<F> logits(args.rows, 0, tiles);
  const auto run = [&](int64_t row, int i) {
    args.indices[row] = argmax.compute(logits.row(i), static_cast<uint32_t>(args.noise.row_offset + row));
  };
  for_rows<0>(tiles, begin, end, run, logits);
}

template <class F>
void hard_rows(const GumbelSoftmaxArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = tiles.columns;
  RowArgmax<F> argmax(tiles, args.noise.key.read());
  RowTensor<F> logits(args.rows, 0, tiles), sample(args.rows, 1, tiles);
  for_tiles(tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    logits.open(outer, inner, rows, true);
    sample.open(outer, inner, rows, false);
    for (int i = 0; i < rows; ++i) {
      Scalar* const marks = sample.row(i);
      const RowWriter<F> writer(marks, tiles.stream && sample.in_place());
      const auto fill = [=](int64_t from, int64_t to, F value) {
        writer.put(from, std::min(to, columns), [=](int64_t, auto) { return value; });
      };
      // zeros are written while integers are drawn
      const int64_t index = argmax.compute(
          logits.row(i), static_cast<uint32_t>(args.noise.row_offset + row + i),
          [=](int64_t from, int64_t to) { fill(from, to, F(0)); });
      if (index >= 0) marks[index] = 1;
      if (index == kNan) fill(0, columns, F(std::numeric_limits<Scalar>::quiet_NaN()));
      if (args.indices != nullptr) args.indices[row + i] = index;
    }
    sample.close(rows);
  });
  if (tiles.stream) fence_streams();
}

template <class F>
void recompute_backward_rows(
    const GumbelSoftmaxRecomputeArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const double inverse = finite_inverse<Scalar>(args.tau.value);
  RowWeights<F> weights(tiles, args.noise.key, inverse);
  RowTensor<F> grad(args.rows, 0, tiles), logits(args.rows, 1, tiles), dlogits(args.rows, 2, tiles);
  auto* dtau_rows = static_cast<Scalar*>(args.dtau_rows);
  const F inverse_tau(static_cast<Scalar>(inverse));
  RowOutput<F, LogitGradient<F>> output(weights, !(dlogits.in_place() && grad.in_place()));
  const auto run = [&](int64_t row, int i) {
    const auto number = static_cast<uint32_t>(args.noise.row_offset + row);
    Sums<double> sums;
    if (dtau_rows != nullptr) {
      sums = weights.template compute<Want::grad_and_tau>(logits.row(i), grad.row(i), number, output);
      // -sum(dlogits * log y) with log y = z ln 2 up to a constant of the row
      dtau_rows[row] = static_cast<Scalar>(
          -(sums.grad_exponent - sums.grad * sums.exponent) * kLn2<double> * inverse);
    } else {
      sums = weights.template compute<Want::grad>(logits.row(i), grad.row(i), number, output);
    }
    output.put(dlogits.writer(i, tiles), {grad.row(i), F(static_cast<Scalar>(sums.grad)), inverse_tau});
  };
  for_rows<1>(tiles, begin, end, run, grad, logits, dlogits);
  output.flush();
  if (tiles.stream) fence_streams();
}

template <class F>
void backward_rows(const GumbelSoftmaxBackwardArgs& args, const RowTiles& tiles, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = tiles.columns;
  RowTensor<F> grad(args.rows, 0, tiles), sample(args.rows, 1, tiles), dlogits(args.rows, 2, tiles);
  const F inverse_tau(static_cast<Scalar>(finite_inverse<Scalar>(args.tau.value)));
  const auto run = [&](int64_t, int i) {
    const Scalar *g = grad.row(i), *y = sample.row(i);
    // A sample rounded to half precision does not sum to one; the mean under it must be a mean all the same, or the
    // gradient of a nearly one-hot row is lost in the difference.
    const auto [total, dot] = sums_by_runs<F, 2>(columns, [=](int64_t j, auto count, F* sums) {
      const F yj = load_lanes<F>(y + j, count);
      sums[0] = sums[0] + yj;
      sums[1] = fma(yj, load_lanes<F>(g + j, count), sums[1]);
    });
    const LogitGradient<F> gradient{g, F(static_cast<Scalar>(total == 0 ? 0 : dot / total)), inverse_tau};
    dlogits.writer(i, tiles).put(0, columns, [=](int64_t j, auto count) {
      return gradient(j, count, load_lanes<F>(y + j, count), F(1));
    });
  };
  for_rows<1>(tiles, begin, end, run, grad, sample, dlogits);
  if (tiles.stream) fence_streams();
}
