// Quantized rows and their gradients over the SIMD layer. Included once per target by foreach_target.h. Rows of half
// precision pass through a buffer of one row; every tensor is read or written once.

#ifndef DVAE_TARGET  // for an editor
#include "vector_quantize/arguments.h"
#include "simd/editor.h"
#endif

#include "vector_quantize/formulas.h"

// Rows that lie `stride` apart, one at a time.
template <class F>
class QuantizeRows {
 public:
  using Scalar = typename F::Scalar;

  QuantizeRows(const Buffer& rows, int64_t stride, int64_t columns) : rows_(rows), stride_(stride), columns_(columns) {
    if (rows.type != storage_of<Scalar>) buffer_.reset(allocate<Scalar>(columns));
  }

  bool exist() const { return rows_.data != nullptr; }
  // The row to read.
  const Scalar* at(int64_t row) const {
    if (!buffer_) return in_place(row);
    convert(row, [&](auto* from) {
      load_tile<F, std::remove_pointer_t<decltype(from)>>(from, kRow, 1, columns_, buffer_.get(), columns_);
    });
    return buffer_.get();
  }
  // Where to write the row, which is put in its place at the end.
  Scalar* begin(int64_t row) const { return buffer_ ? buffer_.get() : in_place(row); }
  void end(int64_t row) const {
    if (!buffer_) return;
    convert(row, [&](auto* to) {
      store_tile<F, std::remove_pointer_t<decltype(to)>>(buffer_.get(), columns_, 1, columns_, to, kRow);
    });
  }

 private:
  static constexpr RowStrides kRow{0, 1, 0};

  Scalar* in_place(int64_t row) const { return static_cast<Scalar*>(rows_.data) + row * stride_; }
  template <class Run>
  void convert(int64_t row, const Run& run) const {
    visit<Scalar>(rows_.type, [&](auto storage) {
      run(static_cast<decltype(storage)*>(rows_.data) + row * stride_);
    });
  }

  Buffer rows_;
  int64_t stride_, columns_;
  Allocation<Scalar> buffer_;
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
void write_quantize_row(const QuantizeRows<F>& rows, int64_t row, int64_t columns, const Value& value) {
  auto* const to = rows.begin(row);
  for_vectors<F>(0, columns, [&](int64_t j, auto count) { store_lanes<F>(value(j, count), to + j, count); });
  rows.end(row);
}

template <class F>
bool is_finite_row(const typename F::Scalar* row, int64_t columns) {
  F nothing(0);
  for_vectors<F>(0, columns, [&](int64_t j, auto count) {
    const F x = load_lanes<F>(row + j, count);
    nothing = nothing + (x - x);
  });
  return reduce_add(nothing) == 0;
}

// Prefetches the code of a row.
inline void prefetch_code(const QuantizeArgs& args, int64_t row) {
  if (row >= args.rows) return;
  const int64_t index = args.indices[row], size = size_of(args.codebook.type);
  if (index < 0 || index >= args.num_codes) return;
  const char* code = static_cast<const char*>(args.codebook.data) + index * args.codebook_stride * size;
  for (int64_t byte = 0; byte < args.columns * size; byte += 64) prefetch(code + byte);
}

template <class F>
void fwd_rows(const QuantizeArgs& args, int64_t begin, int64_t end) {
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
    const Scalar *from = x.at(row), *code = codebook.at(index);
    Scalar* const to = quantized.begin(row);
    const auto [error] = sums_by_runs<F, 1>(columns, [=](int64_t j, auto count, F* sums) {
      const F c = load_lanes<F>(code + j, count), difference = load_lanes<F>(from + j, count) - c;
      store_lanes<F>(c, to + j, count);
      sums[0] = fma(difference, difference, sums[0]);
    });
    if (!(error <= kLargest<double>) && !is_finite_row<F>(from, columns)) {
      fill(row, kNaN<Scalar>);
      continue;
    }
    quantized.end(row);
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
void bwd_rows(const QuantizeBackwardArgs& args, int64_t begin, int64_t end) {
  using Scalar = typename F::Scalar;
  const int64_t columns = args.columns;
  const QuantizeRows<F> grads(args.grad, args.grad_stride, columns), x(args.x, args.x_stride, columns);
  const QuantizeRows<F> codes(args.codes, args.codes_stride, columns);
  const QuantizeRows<F> dx(args.dx, columns, columns), dcodes(args.dcodes, columns, columns);
  const auto* grad_losses = static_cast<const Scalar*>(args.grad_losses.data);
  const bool commits = grad_losses != nullptr && args.commitment_weight != 0;
  for (int64_t row = begin; row < end; ++row) {
    if (args.indices[row] == kMasked) {
      const auto zero = [](int64_t, auto) { return F(0); };
      write_quantize_row<F>(dx, row, columns, zero);
      if (dcodes.exist()) write_quantize_row<F>(dcodes, row, columns, zero);
      continue;
    }
    const Scalar *value = x.at(row), *code = codes.at(row), *g = grads.exist() ? grads.at(row) : nullptr;
    const Scalar loss = grad_losses == nullptr ? 0 : 2 * grad_losses[row];
    const F slope(static_cast<Scalar>(args.commitment_weight) * loss);
    const auto grad = [=](int64_t j, auto count) { return load_lanes<F>(g + j, count); };
    const auto of_loss = [=](int64_t j, auto count) {
      return slope * (load_lanes<F>(value + j, count) - load_lanes<F>(code + j, count));
    };
    // writes the gradient through the quantized value, plus that of the loss
    const auto write = [&](const auto& through) {
      if (!commits) return write_quantize_row<F>(dx, row, columns, through);
      write_quantize_row<F>(
          dx, row, columns, [&](int64_t j, auto count) { return through(j, count) + of_loss(j, count); });
    };
    if (g == nullptr) {
      write([](int64_t, auto) { return F(0); });
    } else if (!args.rotation) {
      write(grad);
    } else if (const auto rotation = rotation_of<F>(value, code, g, columns); !rotation.exists()) {
      write(grad);
    } else {
      write([&](int64_t j, auto count) {
        const F from = load_lanes<F>(value + j, count);
        return rotation.gradient(grad(j, count), rotation.half_way(from, load_lanes<F>(code + j, count)), from);
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

void vector_quantize_fwd(const QuantizeArgs& args, int64_t begin, int64_t end) {
  if (args.errors.type == Storage::float64) return fwd_rows<F64>(args, begin, end);
  fwd_rows<F32>(args, begin, end);
}

void vector_quantize_bwd(const QuantizeBackwardArgs& args, int64_t begin, int64_t end) {
  if (args.x.type == Storage::float64) return bwd_rows<F64>(args, begin, end);
  bwd_rows<F32>(args, begin, end);
}
