// Rows of a strided tensor of any storage type as contiguous runs of the compute type.

// Converts between a tile of `rows` rows in memory (strides in elements) and rows of compute scalars `pitch` apart.
template <class F, class T>
void load_tile(const void* base, RowStrides s, int rows, int64_t columns, typename F::Scalar* to, int64_t pitch) {
  const T* from = static_cast<const T*>(base);
  if (s.column == 1) {
    for (int i = 0; i < rows; ++i) {
      int64_t j = 0;
      for (; j + F::lanes <= columns; j += F::lanes) F::load(from + i * s.inner + j).store(to + i * pitch + j);
      for (; j < columns; ++j) to[i * pitch + j] = load_as_compute(from[i * s.inner + j]);
    }
    return;
  }
  for (int64_t j = 0; j < columns; ++j) {
    for (int i = 0; i < rows; ++i) to[i * pitch + j] = load_as_compute(from[i * s.inner + j * s.column]);
  }
}

template <class F, class T>
void store_tile(const typename F::Scalar* from, int64_t pitch, int rows, int64_t columns, void* base, RowStrides s) {
  T* to = static_cast<T*>(base);
  if (s.column == 1) {
    for (int i = 0; i < rows; ++i) {
      int64_t j = 0;
      for (; j + F::lanes <= columns; j += F::lanes) F::load(from + i * pitch + j).store(to + i * s.inner + j);
      for (; j < columns; ++j) {
        to[i * s.inner + j] = store_from_compute<T, typename F::Scalar>(from[i * pitch + j]);
      }
    }
    return;
  }
  for (int64_t j = 0; j < columns; ++j) {
    for (int i = 0; i < rows; ++i) {
      to[i * s.inner + j * s.column] = store_from_compute<T, typename F::Scalar>(from[i * pitch + j]);
    }
  }
}

// How many columns of a vector exist: all, which the compiler then knows, or the first few.
template <class F>
using AllLanes = std::integral_constant<int, F::lanes>;

// The first `count` columns at p, zero in the other lanes.
template <class F>
F load_lanes(const typename F::Scalar* p, AllLanes<F>) {
  return F::load(p);
}
template <class F>
F load_lanes(const typename F::Scalar* p, int count) {
  typename F::Scalar lanes[F::lanes] = {};
  std::memcpy(lanes, p, count * sizeof(lanes[0]));
  return F::load(lanes);
}

// The first `count` columns at p, `fill` in the other lanes.
template <class F>
F load_or(const typename F::Scalar* p, AllLanes<F>, typename F::Scalar) {
  return F::load(p);
}
template <class F>
F load_or(const typename F::Scalar* p, int count, typename F::Scalar fill) {
  typename F::Scalar lanes[F::lanes];
  std::fill(lanes, lanes + F::lanes, fill);
  std::memcpy(lanes, p, count * sizeof(fill));
  return F::load(lanes);
}
// Calls visit(column, count) for the vectors of [begin, end).
template <class F, class Visit>
void for_vectors(int64_t begin, int64_t end, const Visit& visit) {
  for (; begin + F::lanes <= end; begin += F::lanes) visit(begin, AllLanes<F>());
  if (begin < end) visit(begin, static_cast<int>(end - begin));
}

// Asks for the columns [begin, end) ahead of their use: little by little, since many requests at once stall.
template <class Scalar>
void prefetch_columns(const Scalar* row, int begin, int end) {
  for (int j = begin; j < end; j += 64 / sizeof(Scalar)) prefetch(row + j);
}

// N sums over a row: add(column, count, sums) adds a vector's part. Taken over to double after short runs, each with four
// chains, so that long rows lose nothing.
template <class F, int N, class Add>
std::array<double, N> sums_by_runs(int64_t columns, const Add& add) {
  constexpr int64_t step = 4 * F::lanes, run = 16 * step;
  std::array<double, N> totals{};
  for (int64_t begin = 0; begin < columns; begin += run) {
    const int64_t end = std::min(begin + run, columns), whole = begin + (end - begin) / step * step;
    F sums[4][N];
    for (auto& chain : sums) std::fill(chain, chain + N, F(0));
    for (int64_t j = begin; j < whole; j += step) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) add(j + i * F::lanes, AllLanes<F>(), sums[i]);
    }
    for_vectors<F>(whole, end, [&](int64_t j, auto count) { add(j, count, sums[0]); });
    for (int n = 0; n < N; ++n) {
      totals[n] += reduce_add((sums[0][n] + sums[1][n]) + (sums[2][n] + sums[3][n]));
    }
  }
  return totals;
}

// Writes the vectors of a row, past the caches where asked.
template <class F>
class RowWriter {
 public:
  using Scalar = typename F::Scalar;
  RowWriter() = default;
  RowWriter(Scalar* row, bool stream) : row_(row), stream_(stream && reinterpret_cast<uintptr_t>(row) % 64 == 0) {}

  // Writes value(column, count) for the columns [begin, end).
  template <class Value>
  void put(int64_t begin, int64_t end, const Value& value) const {
    Scalar* const row = row_;
    if (stream_) {
      for (; begin + F::lanes <= end; begin += F::lanes) value(begin, AllLanes<F>()).stream(row + begin);
    } else {
      for (; begin + F::lanes <= end; begin += F::lanes) value(begin, AllLanes<F>()).store(row + begin);
    }
    if (begin == end) return;
    const auto count = static_cast<int>(end - begin);
    Scalar last[F::lanes];
    value(begin, count).store(last);
    std::memcpy(row + begin, last, count * sizeof(Scalar));
  }

 private:
  Scalar* row_ = nullptr;
  bool stream_ = false;
};

// A tensor's rows by tiles: in place where they already are contiguous compute scalars, else through a buffer.
template <class F>
class RowTensor {
 public:
  using Scalar = typename F::Scalar;

  RowTensor(const Buffer& tensor, RowStrides strides, int64_t columns, int tile_rows)
      : tensor_(tensor), strides_(strides), columns_(columns), pitch_(columns + 16) {
    in_place_ = strides.column == 1 && tensor.type == storage_of<Scalar>;
    if (!in_place_) buffer_.reset(allocate<Scalar>(pitch_ * tile_rows));
  }

  // Tensor number `tensor` of a call.
  template <int N>
  RowTensor(const Rows<N>& rows, int tensor, const RowTiles& tiles)
      : RowTensor(rows.tensors[tensor], rows.layout.strides[tensor], tiles.columns, tiles.tile_rows) {}

  bool in_place() const { return in_place_; }

  // Opens the tile that starts at (outer, inner); `read` fills the buffer from memory.
  void open(int64_t outer, int64_t inner, int rows, bool read) {
    const int64_t offset = outer * strides_.outer + inner * strides_.inner;
    base_ = static_cast<char*>(tensor_.data) + offset * size_of(tensor_.type);
    if (in_place_ || !read) return;
    visit<Scalar>(tensor_.type, [&](auto storage) {
      load_tile<F, decltype(storage)>(base_, strides_, rows, columns_, buffer_.get(), pitch_);
    });
  }
  Scalar* row(int i) const {
    return in_place_ ? reinterpret_cast<Scalar*>(base_) + i * strides_.inner : buffer_.get() + i * pitch_;
  }
  RowWriter<F> writer(int i, const RowTiles& tiles) const { return {row(i), tiles.stream && in_place_}; }
  // Writes the opened tile back to memory.
  void close(int rows) {
    if (in_place_) return;
    visit<Scalar>(tensor_.type, [&](auto storage) {
      store_tile<F, decltype(storage)>(buffer_.get(), pitch_, rows, columns_, base_, strides_);
    });
  }

 private:
  Buffer tensor_;
  RowStrides strides_;
  int64_t columns_, pitch_;
  bool in_place_;
  Allocation<Scalar> buffer_;
  char* base_ = nullptr;
};

// Calls the kernel that a call needs: rows(F()) along the rows with vectors F, or columns() for interleaved ones.
template <class Rows, class Columns>
void run_rows(const RowTiles& tiles, const Rows& rows, const Columns& columns) {
  if (tiles.doubles) {
    rows(F64());
  } else if (tiles.interleaved) {
    columns();
  } else {
    rows(F32());
  }
}

// Calls run(first row number, outer, inner, rows) for the tiles [begin, end).
template <class Run>
void for_tiles(const RowTiles& tiles, int64_t begin, int64_t end, const Run& run) {
  for (int64_t t = begin; t < end; ++t) {
    const int64_t outer = t / tiles.per_outer(), inner = t % tiles.per_outer() * tiles.tile_rows;
    const int rows = static_cast<int>(std::min<int64_t>(tiles.tile_rows, tiles.inner - inner));
    run(outer * tiles.inner + inner, outer, inner, rows);
  }
}

// Calls run(row number, i) for the rows of the tiles [begin, end): it is row i of the opened tile of each
// tensor. The last `outputs` tensors are written, the others read.
template <int outputs, class Run, class... Tensors>
void for_rows(const RowTiles& tiles, int64_t begin, int64_t end, const Run& run, Tensors&... tensors) {
  constexpr int inputs = sizeof...(tensors) - outputs;
  for_tiles(tiles, begin, end, [&](int64_t row, int64_t outer, int64_t inner, int rows) {
    int n = 0;
    (tensors.open(outer, inner, rows, n++ < inputs), ...);
    for (int i = 0; i < rows; ++i) run(row + i, i);
    n = 0;
    ((n++ < inputs ? void() : tensors.close(rows)), ...);
  });
}
