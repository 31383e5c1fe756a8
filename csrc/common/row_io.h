// Rows of a strided tensor of any storage type as contiguous runs of the compute type. Part of the kernels of a target.

// Converts between a tile of `rows` rows in memory (strides in elements) and rows of compute scalars `pitch` apart.
template <class F, class T>
void load_tile(const void* base, RowStrides s, int rows, int64_t columns, typename F::Scalar* to, int64_t pitch) {
  const T* from = static_cast<const T*>(base);
  if (s.category == 1) {
    for (int i = 0; i < rows; ++i) {
      int64_t j = 0;
      for (; j + F::lanes <= columns; j += F::lanes) F::load(from + i * s.inner + j).store(to + i * pitch + j);
      for (; j < columns; ++j) to[i * pitch + j] = load_as_compute(from[i * s.inner + j]);
    }
    return;
  }
  for (int64_t j = 0; j < columns; ++j) {
    for (int i = 0; i < rows; ++i) to[i * pitch + j] = load_as_compute(from[i * s.inner + j * s.category]);
  }
}

template <class F, class T>
void store_tile(const typename F::Scalar* from, int64_t pitch, int rows, int64_t columns, void* base, RowStrides s) {
  T* to = static_cast<T*>(base);
  if (s.category == 1) {
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
      to[i * s.inner + j * s.category] = store_from_compute<T, typename F::Scalar>(from[i * pitch + j]);
    }
  }
}

// The vector at column j of a row, zero beyond its end.
template <class F>
F load_upto(const typename F::Scalar* row, int64_t j, int64_t columns) {
  if (j + F::lanes <= columns) return F::load(row + j);
  typename F::Scalar last[F::lanes] = {};
  std::memcpy(last, row + j, (columns - j) * sizeof(last[0]));
  return F::load(last);
}

// Sum of term(column) over the vectors of a row, in double between short runs so that long rows lose nothing.
template <class F, class Term>
double sum_by_runs(int64_t columns, const Term& term) {
  constexpr int64_t run = 64 * F::lanes;
  double total = 0;
  for (int64_t first = 0; first < columns; first += run) {
    F sum(0);
    for (int64_t j = first; j < std::min(first + run, columns); j += F::lanes) sum = sum + term(j);
    total += reduce_add(sum);
  }
  return total;
}

// A tensor's rows by tiles: in place where they already are contiguous compute scalars, else through a buffer.
template <class F>
class RowTensor {
 public:
  using Scalar = typename F::Scalar;

  RowTensor(const Buffer& tensor, RowStrides strides, int64_t columns, int tile_rows)
      : tensor_(tensor), strides_(strides), columns_(columns), pitch_(columns + 16) {
    in_place_ = strides.category == 1 && tensor.type == storage_of<Scalar>;
    if (!in_place_) buffer_.reset(allocate<Scalar>(pitch_ * tile_rows));
  }

  bool in_place() const { return in_place_; }

  // Opens the tile that starts at (outer, inner); `read` fills the buffer from memory.
  void open(int64_t outer, int64_t inner, int rows, bool read) {
    const int64_t offset = outer * strides_.outer + inner * strides_.inner;
    base_ = static_cast<char*>(tensor_.data) + offset * size_of(tensor_.type);
    if (in_place_ || !read) return;
    with_storage<Scalar>(tensor_.type, [&](auto storage) {
      load_tile<F, decltype(storage)>(base_, strides_, rows, columns_, buffer_.get(), pitch_);
    });
  }
  Scalar* row(int i) const {
    return in_place_ ? reinterpret_cast<Scalar*>(base_) + i * strides_.inner : buffer_.get() + i * pitch_;
  }
  // Writes the opened tile back to memory.
  void close(int rows) {
    if (in_place_) return;
    with_storage<Scalar>(tensor_.type, [&](auto storage) {
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

// Writes the vectors of a row: whole ones directly, past the caches where asked, the last one in part.
template <class F>
class RowWriter {
 public:
  using Scalar = typename F::Scalar;
  RowWriter(Scalar* row, int64_t columns, bool stream)
      : row_(row), columns_(columns), stream_(stream && reinterpret_cast<uintptr_t>(row) % 64 == 0) {}

  void put(int64_t j, F value) const {
    if (j + F::lanes > columns_) {
      Scalar last[F::lanes];
      value.store(last);
      std::memcpy(row_ + j, last, (columns_ - j) * sizeof(Scalar));
    } else if (stream_) {
      value.stream(row_ + j);
    } else {
      value.store(row_ + j);
    }
  }

 private:
  Scalar* row_;
  int64_t columns_;
  bool stream_;
};

// Calls run(first row number, outer, inner, rows) for the tiles [begin, end).
template <class Run>
void for_tiles(const RowTiles& tiles, int64_t begin, int64_t end, const Run& run) {
  for (int64_t t = begin; t < end; ++t) {
    const int64_t outer = t / tiles.per_outer(), inner = t % tiles.per_outer() * tiles.tile_rows;
    const int rows = static_cast<int>(std::min<int64_t>(tiles.tile_rows, tiles.inner - inner));
    run(outer * tiles.inner + inner, outer, inner, rows);
  }
}
