// Quantized rows and their gradients over the SIMD layer. Included once per target by for_each_target.h. Rows of half
// precision pass through a buffer of one row; every tensor is read or written once.

#include "common/row_io.h"
#include "vector_quantize/formulas.h"

// Rows that lie `stride` apart, one at a time.
template <class F>
class QuantizeRows {
 public:
  QuantizeRows(const Buffer& rows, int64_t stride, int64_t columns)
      : tensor_(rows, {stride, 1, 0}, columns, 1), exist_(rows.data != nullptr) {}

  bool exist() const { return exist_; }
  const typename F::Scalar* read(int64_t row) {
    tensor_.open(row, 0, 1, true);
    return tensor_.row(0);
  }
  typename F::Scalar* begin(int64_t row) {
    tensor_.open(row, 0, 1, false);
    return tensor_.row(0);
  }
  void end() { tensor_.close(1); }

 private:
  RowTensor<F> tensor_;
  bool exist_;
};

template <class F>
void store_lanes(F value, typename F::Scalar* p, AllLanes<F>) {
  value.store(p);
}
template <class F>
void store_lanes(F value, typename F::Scalar* p, int count) {
  typename F::Scalar lanes[F::lanes];
  value.store(lanes);
  std::memcpy(p, lanes, count * sizeof(lanes[0]));
}

// Writes one row: value(column, count) for its columns.
template <class F, class Value>
void write_quantize_row(QuantizeRows<F>& rows, int64_t row, int64_t columns, const Value& value) {
  RowWriter<F>(rows.begin(row), false).put(0, columns, value);
  rows.end();
}

// Asks for the code of a row some rows ahead.
inline void prefetch_code(const QuantizeArgs& args, int64_t row) {
  if (row >= args.rows) return;
  const int64_t index = args.indices[row], size = size_of(args.codebook.type);
  if (index < 0 || index >= args.num_codes) return;
  const char* code = static_cast<const char*>(args.codebook.data) + index * args.codebook_stride * size;
  for (int64_t byte = 0; byte < args.columns * size; byte += 64) prefetch(code + byte);
}

template <class F>
void quantize_rows(const QuantizeArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = args.columns;
  QuantizeRows<F> x(args.x, args.x_stride, columns), codebook(args.codebook, args.codebook_stride, columns);
  QuantizeRows<F> quantized(args.quantized, columns, columns), codes(args.codes, columns, columns);
  auto* errors = static_cast<Scalar*>(args.errors.data);
  const auto fill = [&](int64_t row, Scalar value) {
    const auto constant = [=](int64_t, auto) { return F(value); };
    write_quantize_row<F>(quantized, row, columns, constant);
    if (codes.exist()) write_quantize_row<F>(codes, row, columns, constant);
    errors[row] = value;
  };
  for (int64_t row = begin; row < end; ++row) {
    prefetch_code(args, row + 8);
    const int64_t index = args.indices[row];
    if (index < 0 || index >= args.num_codes) {
      fill(row, index == kMasked ? Scalar(0) : kNaN<Scalar>);
      continue;
    }
    const Scalar *from = x.read(row), *code = codebook.read(index);
    Scalar* to = quantized.begin(row);
    const auto [error, finite] = sums_by_runs<F, 2>(columns, [&](int64_t j, auto count, F* sums) {
      const F value = load_lanes<F>(from + j, count), c = load_lanes<F>(code + j, count), difference = value - c;
      store_lanes<F>(c, to + j, count);
      sums[0] = fma(difference, difference, sums[0]);
      sums[1] = sums[1] + (value - value);
    });
    if (finite != finite) {
      fill(row, kNaN<Scalar>);
      continue;
    }
    quantized.end();
    if (codes.exist()) {
      write_quantize_row<F>(codes, row, columns, [=](int64_t j, auto count) { return load_lanes<F>(code + j, count); });
    }
    errors[row] = static_cast<Scalar>(error);
  }
}

// The rotation of a row, where there is one, made ready for its gradient.
template <class F>
Rotation<F> rotation_of(
    const typename F::Scalar* x, const typename F::Scalar* code, const typename F::Scalar* grad, int64_t columns) {
  using Scalar = typename F::Scalar;
  const auto squares = sums_by_runs<F, 2>(columns, [=](int64_t j, auto count, F* sums) {
    const F from = load_lanes<F>(x + j, count), c = load_lanes<F>(code + j, count);
    sums[0] = fma(from, from, sums[0]);
    sums[1] = fma(c, c, sums[1]);
  });
  Rotation<F> rotation(static_cast<Scalar>(squares[0]), static_cast<Scalar>(squares[1]));
  const auto products = sums_by_runs<F, 3>(columns, [=](int64_t j, auto count, F* sums) {
    const F c = load_lanes<F>(code + j, count), g = load_lanes<F>(grad + j, count);
    const F s = rotation.half_way(load_lanes<F>(x + j, count), c);
    sums[0] = fma(s, s, sums[0]);
    sums[1] = fma(s, g, sums[1]);
    sums[2] = fma(c, g, sums[2]);
  });
  rotation.prepare(
      static_cast<Scalar>(products[0]), static_cast<Scalar>(products[1]), static_cast<Scalar>(products[2]));
  return rotation;
}

template <class F>
void quantize_backward_rows(const QuantizeBackwardArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = args.columns;
  QuantizeRows<F> grads(args.grad, args.grad_stride, columns), x(args.x, args.x_stride, columns);
  QuantizeRows<F> codes(args.codes, args.codes_stride, columns);
  QuantizeRows<F> dx(args.dx, columns, columns), dcodes(args.dcodes, columns, columns);
  const auto* grad_losses = static_cast<const Scalar*>(args.grad_losses.data);
  const bool commits = grad_losses != nullptr && args.commitment_weight != 0;
  for (int64_t row = begin; row < end; ++row) {
    const auto zero = [](int64_t, auto) { return F(0); };
    if (args.indices[row] == kMasked) {
      write_quantize_row<F>(dx, row, columns, zero);
      if (dcodes.exist()) write_quantize_row<F>(dcodes, row, columns, zero);
      continue;
    }
    const Scalar *value = x.read(row), *code = codes.read(row), *g = grads.exist() ? grads.read(row) : nullptr;
    const Scalar loss = grad_losses == nullptr ? 0 : 2 * grad_losses[row];
    const F slope(static_cast<Scalar>(args.commitment_weight) * loss);
    // what reaches the row through its quantized value, and what its loss adds
    const auto sum = [=](F grad, int64_t j, auto count) {
      if (!commits) return grad;
      return grad + slope * (load_lanes<F>(value + j, count) - load_lanes<F>(code + j, count));
    };
    const auto rotation = args.rotation && g != nullptr ? rotation_of<F>(value, code, g, columns) : Rotation<F>(0, 0);
    if (rotation.exists()) {
      write_quantize_row<F>(dx, row, columns, [=](int64_t j, auto count) {
        const F from = load_lanes<F>(value + j, count);
        const F s = rotation.half_way(from, load_lanes<F>(code + j, count));
        return sum(rotation.gradient(load_lanes<F>(g + j, count), s, from), j, count);
      });
    } else {
      write_quantize_row<F>(dx, row, columns, [=](int64_t j, auto count) {
        return sum(g == nullptr ? F(0) : load_lanes<F>(g + j, count), j, count);
      });
    }
    if (!dcodes.exist()) continue;
    const F to_code(static_cast<Scalar>(args.codebook_weight) * loss);
    write_quantize_row<F>(dcodes, row, columns, [=](int64_t j, auto count) {
      const F c = load_lanes<F>(code + j, count);
      return select(is_nan(c), F(0), to_code * (c - load_lanes<F>(value + j, count)));
    });
  }
}

void quantize(const QuantizeArgs& args, int64_t begin, int64_t end) {
  if (args.errors.type == Storage::float64) return quantize_rows<F64>(args, begin, end);
  quantize_rows<F32>(args, begin, end);
}

void quantize_backward(const QuantizeBackwardArgs& args, int64_t begin, int64_t end) {
  if (args.x.type == Storage::float64) return quantize_backward_rows<F64>(args, begin, end);
  quantize_backward_rows<F32>(args, begin, end);
}
