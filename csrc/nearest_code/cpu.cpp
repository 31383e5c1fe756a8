// CPU backend of nearest_code.

#include "nearest_code/cpu.h"

#include "simd/intrinsics.h"

#include <cmath>
#include <vector>

#include "torch/parallel.h"
#include "nearest_code/tensors.h"

#define DVAE_OP nearest_code
#include "simd/foreach_target.h"

namespace dvae {
namespace {

// stage(begin, end) over codes, or tiles of them, that take `elements` each.
template <class Stage>
void parallel_over_codes(int64_t count, int64_t elements, const Stage& stage) {
  constexpr int64_t thread_elements = 1 << 12;
  parallel_for(count, elements, stage, thread_elements);
}

// The codes of one head with their memory.
class CodesOfHead {
 public:
  CodesOfHead(const Buffer& values, int64_t count, int64_t columns, bool cosine)
      : padded_(count + kMostTileCodes),
        weights_(allocate<double>(padded_)),
        lengths_(allocate<double>(count)),
        norms_(allocate<double>(count)),
        centre_(allocate<float>(padded_columns(columns))),
        peaks_(allocate<float>(count)) {
    codes = {values, count, columns, cosine, weights_.get(), lengths_.get(), centre_.get(), 0, norms_.get(),
             peaks_.get()};
    std::fill(codes.weights + count, codes.weights + padded_, kNaN<double>);
    const auto weigh = DVAE_DISPATCH(weigh_codes), measure = DVAE_DISPATCH(measure_codes);
    parallel_over_codes(count, columns, [&](int64_t begin, int64_t end) { weigh(codes, begin, end); });
    for (int64_t k = 0; k < count; ++k) {
      if (codes.weights[k] == codes.weights[k]) longest_ = std::max(longest_, codes.lengths[k]);
    }
    if (values.type == Storage::float64) return;
    find_centre();
    parallel_over_codes(count, columns, [&](int64_t begin, int64_t end) { measure(codes, begin, end); });
  }

  double largest_length() const { return codes.cosine ? 1 : std::sqrt(longest_); }
  double largest_norm() const { return std::sqrt(*std::max_element(codes.norms, codes.norms + codes.count)) * (1 + 1e-9); }
  float largest_value() const { return *std::max_element(codes.peaks, codes.peaks + codes.count); }
  double centre_norm() const { return std::sqrt(centre_square_) * (1 + 1e-9); }

  Codes codes;

 private:
  // About the mean: results do not depend on it, so a sample of the codes will do.
  void find_centre() {
    constexpr int64_t sample = 1024;
    const auto* values = static_cast<const float*>(codes.values.data);
    std::vector<double> sum(padded_columns(codes.columns));
    int64_t taken = 0;
    for (int64_t k = 0; k < codes.count; k += std::max<int64_t>(codes.count / sample, 1)) {
      if (codes.weights[k] != codes.weights[k]) continue;
      const double weight = codes.cosine ? codes.weights[k] : 1;
      for (int64_t d = 0; d < codes.columns; ++d) sum[d] += values[k * codes.columns + d] * weight;
      ++taken;
    }
    for (std::size_t d = 0; d < sum.size(); ++d) {
      const auto mean = static_cast<float>(sum[d] / static_cast<double>(std::max<int64_t>(taken, 1)));
      codes.centre[d] = mean;
      centre_square_ += double{mean} * mean;
    }
    codes.half_centre = codes.cosine ? 0 : centre_square_ / 2;
  }

  int64_t padded_;
  double longest_ = 0, centre_square_ = 0;
  Allocation<double> weights_, lengths_, norms_;
  Allocation<float> centre_, peaks_;
};

CodePass first_pass(const Codes& codes) {
  if (codes.values.type == Storage::float64) return CodePass::doubles;
  if (active_target != CpuTarget::avx512_vnni) return CodePass::floats;
  // Bytes take half the time of shorts, but leave more candidates: they pay where neither few columns tell the codes
  // apart nor the errors of very many add up.
  constexpr int64_t fewest = 16, most = 384;
  return codes.columns >= fewest && codes.columns <= most ? CodePass::bytes : CodePass::shorts;
}

// The codes of one head as a pass takes them, with their memory.
class PackedOfHead {
 public:
  PackedOfHead(const CodesOfHead& head, CodePass pass) {
    const Codes& codes = head.codes;
    const int values_per_word = pass == CodePass::bytes ? 4 : pass == CodePass::shorts ? 2 : 1;
    const int64_t tile = codes_of_tile(active_target, pass), tiles = (codes.count + tile - 1) / tile;
    const int64_t units = (codes.columns + values_per_word - 1) / values_per_word;
    words_.reset(allocate<unsigned char>(tiles * tile * units * (pass == CodePass::doubles ? 8 : 4)));
    const bool exact = pass == CodePass::doubles;
    const int64_t facts = exact ? 0 : tiles * tile;
    starts_.reset(allocate<float>(facts));
    sums_.reset(allocate<int32_t>(facts));
    errors_.reset(allocate<float>(facts));
    packed = {pass, units, tile, tiles, words_.get(), starts_.get(), sums_.get(), errors_.get(), 1, 0, {}};
    if (!exact) packed.scale = scale_of(head, pass);
    const auto pack = DVAE_DISPATCH(pack_codes);
    parallel_over_codes(tiles, tile * codes.columns, [&](int64_t begin, int64_t end) { pack(codes, packed, begin, end); });
    if (!exact) set_bounds(head);
  }

  PackedCodes packed;

 private:
  static float scale_of(const CodesOfHead& head, CodePass pass) {
    const auto norm = static_cast<float>(head.largest_norm());
    if (pass == CodePass::bytes) return std::max(head.largest_value() / 127, 0x1p-100f);
    if (pass == CodePass::shorts) return std::max(norm / 32700, 0x1p-100f);
    int exponent = 0;
    std::frexp(norm, &exponent);
    return norm > 0 && norm <= kLargest<float> ? std::ldexp(1.0f, std::clamp(exponent, -100, 126)) : 1.0f;
  }

  void set_bounds(const CodesOfHead& head) {
    constexpr double unit = 0x1p-24;  // of float32
    const Codes& codes = head.codes;
    const double scale = packed.scale, largest = head.largest_norm(), half = codes.cosine ? 0 : largest * largest / 2;
    const double distance = std::sqrt(*std::max_element(packed.errors, packed.errors + packed.tiles * packed.tile));
    // of normalising, subtracting the centre and dividing by the scale, beside that of rounding to integers
    const double rounding = unit * (4 * largest + (codes.cosine ? 2 : 0));
    const double slack = 1 + 4 * unit * static_cast<double>(codes.columns + 16);
    const double error = scale * distance * slack + rounding;
    packed.largest_start = half / scale / scale;
    packed.bounds = {largest + error, error, half, 4 * unit * half, head.centre_norm(),
                     codes.cosine ? 0 : head.centre_norm()};
    if (packed.pass != CodePass::floats) return;
    CodeBounds<double>& bounds = packed.bounds;  // in the scale, which a pass of floats shares with its rows
    for (double* length : {&bounds.norm, &bounds.error, &bounds.centre, &bounds.row_centre}) *length /= scale;
    for (double* square : {&bounds.half, &bounds.half_error}) *square = *square / scale / scale;
  }

  Allocation<unsigned char> words_;
  Allocation<float> starts_, errors_;
  Allocation<int32_t> sums_;
};

// Every row goes through passes until one is sure of it; the last one always is.
void search_head(
    const CodesOfHead& head, const Buffer& x, int64_t stride, int64_t count, int64_t* indices, void* scores,
    int64_t* rescored) {
  std::vector<int64_t> rows;
  std::atomic<int64_t> rescored_rows = 0, rescored_blocks = 0, ignored = 0;
  bool first = true;
  for (CodePass pass = first_pass(head.codes);; pass = pass < CodePass::floats ? CodePass::floats : CodePass::doubles) {
    const PackedOfHead codes(head, pass);
    std::vector<uint8_t> open(count);
    constexpr int64_t tile_rows = 8 * kRowGroup, few = 8 * tile_rows;  // or smaller tiles, so that threads share them
    const NearestArgs args{
        &head.codes, &codes.packed, x, stride, first ? nullptr : rows.data(), count,
        count < few ? 2 * kRowGroup : tile_rows, head.largest_length(), indices, scores, open.data(),
        first ? &rescored_rows : &ignored, first ? &rescored_blocks : &ignored};
    const auto search = DVAE_DISPATCH(search_rows);
    constexpr int64_t products_per_thread = 1 << 20;  // some ten microseconds
    const int64_t products = args.tile_rows * head.codes.count * head.codes.columns;
    parallel_for(
        (count + args.tile_rows - 1) / args.tile_rows, products,
        [&](int64_t begin, int64_t end) { search(args, begin, end); }, products_per_thread);
    if (first) rescored[2] += count * codes.packed.tiles * (codes.packed.tile / (has_avx512(active_target) ? 4 : 2));
    std::vector<int64_t> left;
    for (int64_t i = 0; i < count; ++i) {
      if (open[i]) left.push_back(first ? i : rows[i]);
    }
    rows = std::move(left);
    count = static_cast<int64_t>(rows.size());
    first = false;
    if (count == 0) break;
  }
  rescored[0] += rescored_rows;
  rescored[1] += rescored_blocks;
}

// In the compute dtype, contiguous.
Tensor as_values(const Tensor& codebook) {
  const ScalarType compute = compute_type(codebook.scalar_type());
  if (codebook.scalar_type() == compute) return torch::stable::contiguous(codebook);
  Tensor values = torch::stable::new_empty(codebook, codebook.sizes(), compute);
  return torch::stable::copy_(values, codebook);
}

std::tuple<Tensor, Tensor, Tensor> nearest(
    Tensor x, Tensor codebook, bool cosine, Name precision, bool with_score) {
  NearestOutputs outputs = new_nearest_outputs(x, codebook, precision, with_score);
  if (outputs.indices.numel() > 0) {
    const int64_t rows = x.size(1), columns = x.size(2), codes = codebook.size(1);
    if (columns > 1 && x.stride(2) != 1) x = torch::stable::contiguous(x);
    const Tensor values = as_values(codebook);
    const auto offset = [](const Tensor& tensor, int64_t elements) {
      const Buffer buffer = buffer_of(tensor);
      return Buffer{static_cast<char*>(buffer.data) + elements * size_of(buffer.type), buffer.type};
    };
    for (int64_t h = 0; h < x.size(0); ++h) {
      const CodesOfHead head(offset(values, h * codes * columns), codes, columns, cosine);
      search_head(
          head, offset(x, h * x.stride(0)), x.stride(1), rows, index_data(outputs.indices) + h * rows,
          with_score ? offset(outputs.scores, h * rows).data : nullptr, index_data(outputs.rescored));
    }
  }
  return {outputs.indices, outputs.scores, outputs.rescored};
}

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) { m.impl("nearest_code.cpp", TORCH_BOX(&dvae::nearest)); }
