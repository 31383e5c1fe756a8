// CPU backend of nearest_code.

#include "nearest_code/arguments.h"

#include "simd/intrinsics.h"

#include <cmath>
#include <vector>

#include "nearest_code/tensors.h"
#include "torch/cpu_op.h"

#define DVAE_OP nearest_code
#include "simd/foreach_target.h"

namespace dvae {
namespace {

// Calls stage(begin, end) over all codes, or tiles of them, of `elements` each.
template <class Stage>
void parallel_over_codes(int64_t count, int64_t elements, const Stage& stage) {
  constexpr int64_t thread_elements = 1 << 12;
  parallel_for(count, elements, stage, thread_elements);
}

// The codes of one head with their memory.
class CodesOfHead {
 public:
  CodesOfHead(const Buffer& values, int64_t count, int64_t columns, const Metric& metric)
      : padded_(count + kMostTileCodes),
        terms_(allocate<CodeTerms>(padded_)),
        squares_(allocate<double>(count)),
        norms_(allocate<double>(count)),
        centres_(allocate<float>(2 * padded_columns(columns))),
        amax_(allocate<float>(count)) {
    codes = {values, count, columns, metric, terms_.get(), squares_.get(), centres_.get(),
             centres_.get() + padded_columns(columns), 0, norms_.get(), amax_.get()};
    std::fill(codes.terms + count, codes.terms + padded_, CodeTerms{kNaN<double>, 0});
    const auto set_terms = DVAE_DISPATCH(set_code_terms), measure = DVAE_DISPATCH(measure_codes);
    parallel_over_codes(count, columns, [&](int64_t begin, int64_t end) { set_terms(codes, begin, end); });
    for (int64_t k = 0; k < count; ++k) {
      if (codes.can_be_chosen(k)) {
        largest_length_ = std::max(largest_length_, std::sqrt(codes.squares[k]) * codes.terms[k].scale);
      }
    }
    if (values.type == Storage::float64) return;
    find_centre();
    parallel_over_codes(count, columns, [&](int64_t begin, int64_t end) { measure(codes, begin, end); });
  }

  double largest_length() const { return largest_length_; }
  double largest_norm() const {
    return std::sqrt(*std::max_element(codes.norms, codes.norms + codes.count)) * (1 + 1e-9);
  }
  float largest_value() const { return *std::max_element(codes.amax, codes.amax + codes.count); }
  double centre_norm() const { return std::sqrt(centre_square_) * (1 + 1e-9); }

  Codes codes;

 private:
  // About the mean of the codes: no result depends on the centre, so that of a sample serves.
  void find_centre() {
    constexpr int64_t sample = 1024;
    const auto* values = static_cast<const float*>(codes.values.data);
    std::vector<double> sum(padded_columns(codes.columns));
    int64_t taken = 0;
    for (int64_t k = 0; k < codes.count; k += std::max<int64_t>(codes.count / sample, 1)) {
      if (!codes.can_be_chosen(k)) continue;
      for (int64_t d = 0; d < codes.columns; ++d) sum[d] += values[k * codes.columns + d] * codes.terms[k].scale;
      ++taken;
    }
    for (std::size_t d = 0; d < sum.size(); ++d) {
      const auto mean = static_cast<float>(sum[d] / static_cast<double>(std::max<int64_t>(taken, 1)));
      codes.centre[d] = mean;
      codes.row_centre[d] = codes.metric.distance ? mean : 0;
      centre_square_ += double{mean} * mean;
    }
    codes.half_centre = codes.metric.distance ? centre_square_ / 2 : 0;
  }

  int64_t padded_;
  double largest_length_ = 0, centre_square_ = 0;
  Allocation<CodeTerms> terms_;
  Allocation<double> squares_, norms_;
  Allocation<float> centres_, amax_;
};

CodePass first_pass(const Codes& codes) {
  if (codes.values.type == Storage::float64) return CodePass::doubles;
  if (active_target != CpuTarget::avx512_vnni) return CodePass::floats;
  // Bytes take half the time of shorts, but leave more candidates: too many of them where there are few columns to tell
  // codes apart, or where the errors of very many add up.
  constexpr int64_t fewest = 16, most = 384;
  return codes.columns >= fewest && codes.columns <= most ? CodePass::bytes : CodePass::shorts;
}

// The codes of one head packed for one pass, with their memory.
class PackedOfHead {
 public:
  PackedOfHead(const CodesOfHead& head, CodePass pass) {
    const Codes& codes = head.codes;
    const int values_per_word = pass == CodePass::bytes ? 4 : pass == CodePass::shorts ? 2 : 1;
    const int64_t tile = codes_of_tile(active_target, pass), tiles = (codes.count + tile - 1) / tile;
    const int64_t units = (codes.columns + values_per_word - 1) / values_per_word;
    words_.reset(allocate<unsigned char>(tiles * tile * units * (pass == CodePass::doubles ? 8 : 4)));
    const bool exact = pass == CodePass::doubles;
    packed = {pass, units, tile, tiles, words_.get(), nullptr, nullptr, nullptr, nullptr, nullptr, 1, 0, {}};
    if (exact) {
      terms_.reset(packed.scales = allocate<double>(2 * tiles * tile));
      packed.offsets = packed.scales + tiles * tile;
    } else {
      starts_.reset(packed.starts = allocate<float>(tiles * tile));
      sums_.reset(packed.sums = allocate<int32_t>(tiles * tile));
      errors_.reset(packed.errors = allocate<float>(tiles * tile));
    }
    if (!exact) packed.scale = scale_of(head, pass);
    const auto pack = DVAE_DISPATCH(pack_codes);
    const auto pack_tiles = [&](int64_t begin, int64_t end) { pack(codes, packed, begin, end); };
    parallel_over_codes(tiles, tile * codes.columns, pack_tiles);
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
    const auto [normalised, is_distance] = codes.metric;
    const double scale = packed.scale, largest = head.largest_norm(), half = is_distance ? largest * largest / 2 : 0;
    const double distance = std::sqrt(*std::max_element(packed.errors, packed.errors + packed.tiles * packed.tile));
    // the rounding of normalising, subtracting the centre and dividing by the scale, beside that to integers
    const double rounding = unit * (4 * largest + (normalised ? 2 : 0));
    const double slack = 1 + 4 * unit * static_cast<double>(codes.columns + 16);
    const double error = scale * distance * slack + rounding;
    packed.largest_start = half / scale / scale;
    packed.bounds = {largest + error, error, half, 4 * unit * half, head.centre_norm(),
                     is_distance ? head.centre_norm() : 0};
    if (packed.pass != CodePass::floats) return;
    CodeBounds<double>& bounds = packed.bounds;  // floats have one scale for rows and codes
    for (double* length : {&bounds.norm, &bounds.error, &bounds.centre, &bounds.row_centre}) *length /= scale;
    for (double* square : {&bounds.half, &bounds.half_error}) *square = *square / scale / scale;
  }

  Allocation<unsigned char> words_;
  Allocation<double> terms_;
  Allocation<float> starts_, errors_;
  Allocation<int32_t> sums_;
};

// Every row goes through passes until one decides it; the last one always does.
void search_head(
    const CodesOfHead& head, const Buffer& x, int64_t stride, int64_t count, int64_t* indices, void* scores,
    int64_t* rescored) {
  std::vector<int64_t> rows;
  std::atomic<int64_t> rescored_rows = 0, rescored_blocks = 0, ignored = 0;
  bool first = true;
  for (CodePass pass = first_pass(head.codes);; pass = pass < CodePass::floats ? CodePass::floats : CodePass::doubles) {
    const PackedOfHead codes(head, pass);
    std::vector<uint8_t> undecided(count);
    constexpr int64_t tile_rows = 8 * kRowGroup, few = 8 * tile_rows;  // of few rows, more threads get smaller tiles
    const NearestArgs args{
        &head.codes, &codes.packed, x, stride, first ? nullptr : rows.data(), count,
        count < few ? 2 * kRowGroup : tile_rows, head.largest_length(), indices, scores, undecided.data(),
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
      if (undecided[i]) left.push_back(first ? i : rows[i]);
    }
    rows = std::move(left);
    count = static_cast<int64_t>(rows.size());
    first = false;
    if (count == 0) break;
  }
  rescored[0] += rescored_rows;
  rescored[1] += rescored_blocks;
}

// The codebook in the compute dtype, contiguous.
Tensor as_values(const Tensor& codebook) {
  const ScalarType compute = compute_type(codebook.scalar_type());
  if (codebook.scalar_type() == compute) return torch::stable::contiguous(codebook);
  Tensor values = torch::stable::new_empty(codebook, codebook.sizes(), compute);
  return torch::stable::copy_(values, codebook);
}

Buffer offset(const Tensor& tensor, int64_t elements) {
  const Buffer buffer = buffer_of(tensor);
  return {static_cast<char*>(buffer.data) + elements * size_of(buffer.type), buffer.type};
}

struct Cpu : CpuDevice {
  using CpuDevice::CpuDevice;

  void search(
      const Tensor& given, const Tensor& codebook, const Metric& metric, const Tensor& indices, const Tensor& scores,
      const Tensor& rescored) const {
    const int64_t rows = given.size(1), columns = given.size(2), codes = codebook.size(1);
    const Tensor x = columns > 1 && given.stride(2) != 1 ? torch::stable::contiguous(given) : given;
    const Tensor values = as_values(codebook);
    for (int64_t h = 0; h < x.size(0); ++h) {
      const CodesOfHead head(offset(values, h * codes * columns), codes, columns, metric);
      search_head(
          head, offset(x, h * x.stride(0)), x.stride(1), rows, index_data(indices) + h * rows,
          scores.numel() > 0 ? offset(scores, h * rows).data : nullptr, index_data(rescored));
    }
  }
};

}  // namespace
}  // namespace dvae

STABLE_TORCH_LIBRARY_IMPL(dvae_kernels, CPU, m) {
  m.impl("nearest_code.cpp", TORCH_BOX(&dvae::nearest_codes<dvae::Cpu>));
}
