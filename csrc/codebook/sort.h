// A counting sort of row numbers by code on the CPU; nothing here needs torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/threads.h"

namespace dvae {

// Writes row numbers and codes in ascending order of code, rows of one code in their order; indices outside become
// `num_codes` and come last. Returns the end of each code. Chunks of the rows are sorted side by side: each has a bin
// for every code, and so its own places in the result, which do not depend on the number of chunks.
inline std::vector<int64_t> sort_by_code(
    ParallelFor parallel_for, int64_t threads, const int64_t* indices, int64_t rows, int32_t num_codes, int64_t* order,
    int32_t* codes) {
  constexpr int64_t rows_per_thread = 1 << 12;
  const int64_t bins = int64_t{num_codes} + 1;
  const int64_t chunks = std::clamp<int64_t>(rows / std::max(bins, rows_per_thread), 1, threads);
  std::vector<int64_t> places(chunks * bins);
  const auto for_rows = [&](const auto& use) {
    const auto body = [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        int64_t* const place = places.data() + chunk * bins;
        const int64_t last = rows * (chunk + 1) / chunks;
        for (int64_t i = rows * chunk / chunks; i < last; ++i) {
          const int32_t code = indices[i] >= 0 && indices[i] < num_codes ? static_cast<int32_t>(indices[i]) : num_codes;
          use(i, code, place[code]);
        }
      }
    };
    parallel_for(chunks, 1, RangeBody(body));
  };
  for_rows([](int64_t, int32_t, int64_t& count) { ++count; });
  int64_t next = 0;
  for (int64_t code = 0; code < bins; ++code) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) next += std::exchange(places[chunk * bins + code], next);
  }
  for_rows([&](int64_t i, int32_t code, int64_t& place) {
    order[place] = i;
    codes[place++] = code;
  });
  places.erase(places.begin(), places.end() - bins);
  return places;
}

}  // namespace dvae
