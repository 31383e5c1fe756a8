// Tiles of F32::lanes consecutive rows side by side: element (column, row) of a tile is at column * F32::lanes + row.

class ColumnTensor {
 public:
  ColumnTensor(const Buffer& tensor, RowStrides strides, const RowTiles& tiles)
      : tensor_(tensor), strides_(strides), tiles_(tiles), buffer_(allocate<float>(tiles.columns * F32::lanes)) {}

  // Tensor number `tensor` of a call.
  template <int N>
  ColumnTensor(const Rows<N>& rows, int tensor, const RowTiles& tiles)
      : ColumnTensor(rows.tensors[tensor], rows.layout.strides[tensor], tiles) {}

  // Opens the tile from row `first`; `read` fills it from memory. Lanes beyond the last row hold zeros.
  void open(int64_t first, bool read) {
    rows_ = static_cast<int>(std::min<int64_t>(F32::lanes, tiles_.outer * tiles_.inner - first));
    const int64_t inner = first % tiles_.inner;
    in_place_ = tensor_.type == Storage::float32 && strides_.inner == 1 && rows_ == F32::lanes &&
                inner + F32::lanes <= tiles_.inner;
    for (int i = 0; i < rows_; ++i) offsets_[i] = offset_of(first + i);
    if (read && !in_place_) visit<float>(tensor_.type, [&](auto storage) { gather<decltype(storage)>(); });
  }

  F32 load(int64_t column) const { return F32::load(at(column)); }
  void store(int64_t column, F32 x) { x.store(at(column)); }
  int rows() const { return rows_; }

  // Writes the opened tile back to memory.
  void close() {
    if (!in_place_) visit<float>(tensor_.type, [&](auto storage) { scatter<decltype(storage)>(); });
  }

 private:
  int64_t offset_of(int64_t row) const {
    return row / tiles_.inner * strides_.outer + row % tiles_.inner * strides_.inner;
  }
  float* at(int64_t column) const {
    return in_place_ ? static_cast<float*>(tensor_.data) + offsets_[0] + column * strides_.column
                     : buffer_.get() + column * F32::lanes;
  }

  template <class T>
  void gather() {
    const T* data = static_cast<const T*>(tensor_.data);
    float* buffer = buffer_.get();
    if (rows_ < F32::lanes) std::fill(buffer, buffer + tiles_.columns * F32::lanes, 0.0f);
    for_elements([&](int64_t j, int i, int64_t offset) { buffer[j * F32::lanes + i] = load_as_compute(data[offset]); });
  }
  template <class T>
  void scatter() {
    T* data = static_cast<T*>(tensor_.data);
    const float* buffer = buffer_.get();
    for_elements([&](int64_t j, int i, int64_t offset) { data[offset] = store_from_compute<T>(buffer[j * F32::lanes + i]); });
  }
  // Calls run(column, lane, offset in memory) in the order of memory.
  template <class Run>
  void for_elements(const Run& run) const {
    const int64_t columns = tiles_.columns, stride = strides_.column;
    if (stride == 1) {
      for (int i = 0; i < rows_; ++i) {
        for (int64_t j = 0; j < columns; ++j) run(j, i, offsets_[i] + j);
      }
    } else {
      for (int64_t j = 0; j < columns; ++j) {
        for (int i = 0; i < rows_; ++i) run(j, i, offsets_[i] + j * stride);
      }
    }
  }

  Buffer tensor_;
  RowStrides strides_;
  RowTiles tiles_;
  Allocation<float> buffer_;
  int rows_ = 0;
  bool in_place_ = false;
  int64_t offsets_[F32::lanes];
};

// Writes the values of the tile's rows, which begin at number `row`.
template <class T>
void put_rows(F32 values, int rows, T* to, int64_t row) {
  float lanes[F32::lanes];
  values.store(lanes);
  std::copy(lanes, lanes + rows, to + row);
}
inline F32 get_rows(const float* from, int64_t row, int rows) {
  float lanes[F32::lanes] = {};
  std::copy(from + row, from + row + rows, lanes);
  return F32::load(lanes);
}
