// The rotation trick, written once for scalars (CUDA) and SIMD vectors (CPU): F is either, Lane<F> a number.
// Without include guard: kernels.cuh includes it in namespace dvae, cpu_kernels.h once per target. Numbers take the
// words of common/scalar_math.h: on the device a root and a division that round correctly are routines.

// The rotation that takes the direction of a row x to that of its code c, by s = x / |x| + c / |c| half-way between.
// There is none where a squared norm comes near the ends of float32, or where the two are opposite, to 2^-16 of a
// radian, so that s has no direction.
template <class F>
class Rotation {
 public:
  using Scalar = Lane<F>;

  DVAE_INLINE Rotation(Scalar square_x, Scalar square_code)
      : inverse_x_(dvae::reciprocal(dvae::square_root(square_x))),
        inverse_code_(dvae::reciprocal(dvae::square_root(square_code))),
        norms_(is_square(square_x) && is_square(square_code)) {}

  DVAE_INLINE F half_way(F x, F code) const { return x * F(inverse_x_) + code * F(inverse_code_); }

  // From |s|^2, s . g and c . g, of the gradient g to the quantized row.
  DVAE_INLINE void prepare(Scalar square, Scalar half_way_grad, Scalar code_grad) {
    if (!norms_ || !(square > Scalar(0x1p-32))) return;
    stretch_ = dvae::quotient(inverse_x_, inverse_code_);
    half_way_ = dvae::quotient(-2 * stretch_ * half_way_grad, square);
    x_ = 2 * stretch_ * inverse_x_ * (inverse_code_ * code_grad);
  }
  // |c| / |x| (g - 2 s (s . g) / |s|^2 + 2 x / |x| (c / |c| . g))
  DVAE_INLINE F gradient(F grad, F half_way, F x) const {
    return F(stretch_) * grad + (F(half_way_) * half_way + F(x_) * x);
  }

  // Once prepared; else the gradient goes straight through.
  DVAE_INLINE bool exists() const { return stretch_ != 0; }

 private:
  DVAE_INLINE bool is_square(Scalar x) const { return x > Scalar(0x1p-120) && x < Scalar(0x1p120); }

  Scalar inverse_x_, inverse_code_;
  bool norms_;
  Scalar stretch_ = 0, half_way_ = 0, x_ = 0;
};
