// Elementwise operations: vectors of contiguous elements of any storage type, by blocks.

template <class F>
F absolute(F x) {
  return max(x, F(0) - x);
}

// The first `count` elements at p (see for_vectors), zero in the other lanes.
template <class F, class T>
F load_elements(const T* p, AllLanes<F>) {
  return F::load(p);
}
template <class F, class T>
F load_elements(const T* p, int count) {
  T lanes[F::lanes] = {};
  std::memcpy(lanes, p, count * sizeof(T));
  return F::load(lanes);
}

// Writes the first `count` lanes, past the caches where asked and possible.
template <class F, class T>
void store_elements(F x, T* p, AllLanes<F>, bool stream) {
  if constexpr (std::is_same_v<T, typename F::Scalar>) {
    if (stream) return x.stream(p);
  }
  x.store(p);
}
template <class F, class T>
void store_elements(F x, T* p, int count, bool) {
  T lanes[F::lanes];
  x.store(lanes);
  std::memcpy(p, lanes, count * sizeof(T));
}

// Writes value(element, count) for the vectors of elements, by four: one alone would wait for its own results.
template <class F, class T, class Value>
[[gnu::always_inline]] inline void put_elements(T* to, int elements, bool stream, const Value& value) {
  constexpr int step = 4 * F::lanes;
  const int whole = elements / step * step;
  for (int first = 0; first < whole; first += step) {
    F x[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) x[i] = value(first + i * F::lanes, AllLanes<F>());
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) store_elements(x[i], to + first + i * F::lanes, AllLanes<F>(), stream);
  }
  // not for_vectors: where a reference to `value` leaves this function, what it holds is loaded again for every vector
  int j = whole;
  for (; j + F::lanes <= elements; j += F::lanes) {
    store_elements(value(j, AllLanes<F>()), to + j, AllLanes<F>(), stream);
  }
  if (j < elements) store_elements<F>(value(j, elements - j), to + j, elements - j, stream);
}

// Calls run(block, first element, elements, words before the first) for the blocks [begin, end).
template <class Run>
void for_blocks(const ElementBlocks& blocks, int64_t begin, int64_t end, const Run& run) {
  for (int64_t b = begin; b < end; ++b) {
    const int lacking = b == 0 ? blocks.shift : 0;
    const int64_t first = b * kElementBlock - blocks.shift + lacking;
    const int64_t left = std::max<int64_t>(blocks.count - first, 0);
    run(b, first, static_cast<int>(std::min<int64_t>(left, kElementBlock - lacking)), lacking);
  }
}

// Whether vectors can be written past the caches from here on.
inline bool streams(bool wanted, const void* p) { return wanted && reinterpret_cast<uintptr_t>(p) % 64 == 0; }

// The elements of a tensor by blocks in the compute type: where they are, or converted.
template <class F>
class BlockReader {
 public:
  using Scalar = typename F::Scalar;
  explicit BlockReader(const Buffer& tensor) : tensor_(tensor) {}

  // The elements from `first`, until the next call.
  const Scalar* open(int64_t first, int elements) {
    if (tensor_.type == storage_of<Scalar>) return static_cast<const Scalar*>(tensor_.data) + first;
    visit<Scalar>(tensor_.type, [&](auto storage) {
      const auto* from = static_cast<const decltype(storage)*>(tensor_.data) + first;
      Scalar* to = converted_;
      for_vectors<F>(0, elements, [=](int64_t j, auto count) { load_elements<F>(from + j, count).store(to + j); });
    });
    return converted_;
  }

 private:
  Buffer tensor_;
  alignas(64) Scalar converted_[kElementBlock + F::lanes];
};

// The same for a tensor that is written, through the caches: the pages of a large new one are still there from being
// zeroed.
template <class F>
class BlockWriter {
 public:
  using Scalar = typename F::Scalar;
  explicit BlockWriter(const Buffer& tensor) : tensor_(tensor) {}

  // Where to write the elements from `first`; close() brings them home.
  Scalar* open(int64_t first) { return in_place() ? static_cast<Scalar*>(tensor_.data) + first : converted_; }
  void close(int64_t first, int elements) {
    if (in_place()) return;
    visit<Scalar>(tensor_.type, [&](auto storage) {
      auto* to = static_cast<decltype(storage)*>(tensor_.data) + first;
      const Scalar* from = converted_;
      for_vectors<F>(0, elements, [=](int64_t j, auto count) {
        store_elements<F>(load_elements<F>(from + j, count), to + j, count, false);
      });
    });
  }
  // Writes value(element, count) by four vectors, as put_elements does.
  template <class Value>
  [[gnu::always_inline]] void put(int64_t first, int elements, const Value& value) {
    Scalar* to = open(first);
    put_elements<F>(to, elements, false, value);
    close(first, elements);
  }
  // The same by single vectors: a third of the code.
  template <class Value>
  void put_singly(int64_t first, int elements, const Value& value) {
    Scalar* to = open(first);
    for_vectors<F>(0, elements, [&](int64_t j, auto count) {
      store_elements<F>(value(j, count), to + j, count, false);
    });
    close(first, elements);
  }

 private:
  bool in_place() const { return tensor_.type == storage_of<Scalar>; }

  Buffer tensor_;
  alignas(64) Scalar converted_[kElementBlock + F::lanes];
};
